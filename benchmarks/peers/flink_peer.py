"""PyFlink: sockets of the DataStream API, and between them the rule in Flink's SQL."""

import socket
import threading

from pyflink.common import Configuration, SimpleStringSchema
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.data_stream import DataStream
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment
from rule import DESTINATION, FEED, Destination, address

# Each step has a window of its own, since one step's windows must all be the same.
RULE = """
with

payments as (
    select
        json_value(line, '$.properties.card_id') as card,
        json_value(line, '$.properties.transaction_id') as transaction_id,
        cast(json_value(line, '$.properties.lat') as double) as lat,
        cast(json_value(line, '$.properties.lon') as double) as lon,
        cast(json_value(line, '$.seconds') as double) as seconds,
        proctime() as now_at
    from feed
),

placed as (
    select
        *,
        lag(lat) over (partition by card order by now_at) as last_lat,
        lag(lon) over (partition by card order by now_at) as last_lon,
        lag(seconds) over (partition by card order by now_at) as last_seconds
    from payments
),

counted as (
    select
        *,
        count(*) over (
            partition by card order by now_at
            range between interval '1' hour preceding and current row
        ) as payments_1h,
        12742.0e0 * asin(sqrt(
            power(sin(radians(lat - last_lat) / 2.0e0), 2.0e0)
            + cos(radians(last_lat)) * cos(radians(lat))
            * power(sin(radians(lon - last_lon) / 2.0e0), 2.0e0)
        )) as km
    from placed
),

travelled as (
    select
        *,
        case
            when km >= 300 then km * 3600.0e0 / greatest(seconds - last_seconds, 60.0e0) else 0.0e0
        end as speed
    from counted
),

judged as (
    select
        card, transaction_id, speed, now_at,
        case
            when
                9.0e0 * least(greatest((speed - 800.0e0) / 1200.0e0, 0.0e0), 1.0e0)
                + 3.2e0 * least((payments_1h - 1.0e0) / 3.0e0, 1.0e0) - 8.7e0 >= 0.0e0
                then 1
            else 0
        end as suspicious
    from travelled
),

episodes as (
    select
        *,
        sum(suspicious) over (
            partition by card order by now_at
            range between interval '24' hour preceding and current row
        ) as suspicious_24h
    from judged
)

select transaction_id || chr(10)
from episodes
where suspicious = 1 and suspicious_24h = 1
"""


def post_all(server: socket.socket) -> None:
    """What Flink writes to the socket, to the destination."""
    connection, _ = server.accept()
    destination = Destination(DESTINATION)
    for line in connection.makefile():
        destination.post({"transaction_id": line.strip()})


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=post_all, args=(server,), daemon=True).start()
settings = Configuration()
settings.set_string("execution.buffer-timeout.interval", "5 ms")
environment = StreamExecutionEnvironment.get_execution_environment(settings)
environment.set_parallelism(1)
tables = StreamTableEnvironment.create(environment)
# Python's API has neither sockets nor streams of plain text: what it wraps does.
feed = DataStream(environment._j_stream_execution_environment.socketTextStream(*address(FEED)))
tables.create_temporary_view("feed", tables.from_data_stream(feed).alias("line"))
text = get_gateway().jvm.java.lang.Class.forName("java.lang.String")
found = tables._j_tenv.toDataStream(tables.sql_query(RULE)._j_table, text)
schema = SimpleStringSchema()._j_serialization_schema
found.writeToSocket("127.0.0.1", server.getsockname()[1], schema)
environment.execute("cards")
