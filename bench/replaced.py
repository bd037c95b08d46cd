"""The design that tickring replaces, as a peer: websockets + json -> Redis pub/sub -> FastAPI WebSocket.

``python bench/replaced.py collector URL REDIS_PORT`` and ``python bench/replaced.py api REDIS_PORT``.
"""

# No `from __future__ import annotations` here: FastAPI must see the class `WebSocket` itself, which is imported late.

import asyncio
import json
import socket
import sys


async def collect(url: str, redis_port: int) -> None:
    import redis.asyncio as redis
    import websockets

    client = redis.Redis(port=redis_port)
    async with websockets.connect(url, compression=None) as socket_:
        print(json.dumps({"ready": True}), flush=True)
        async for text in socket_:
            data = json.loads(text)["data"]
            trade = {
                "symbol": data["s"],
                "first_trade_id": data["f"],
                "price": data["p"],
                "quantity": data["q"],
                "ts": data["T"],
            }
            await client.publish("trades", json.dumps(trade))


def serve(redis_port: int) -> None:
    import redis.asyncio as redis
    import uvicorn
    from fastapi import FastAPI, WebSocket

    app = FastAPI()

    @app.websocket("/ws")
    async def stream(socket_: WebSocket) -> None:
        await socket_.accept()
        subscription = redis.Redis(port=redis_port).pubsub()
        await subscription.subscribe("trades")
        await socket_.send_text("{}")
        async for message in subscription.listen():
            if message["type"] == "message":
                await socket_.send_text(json.dumps({"type": "trade", "data": json.loads(message["data"])}))

    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", loop="uvloop")).run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1] == "collector":
        asyncio.run(collect(sys.argv[2], int(sys.argv[3])))
    else:
        serve(int(sys.argv[2]))
