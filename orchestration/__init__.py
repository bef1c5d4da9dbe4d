"""Runs Signalbox: settings, storage, Dagster, the command line. Alone imports every other room."""
