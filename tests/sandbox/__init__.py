"""Tests of the vendor stand-ins."""
