"""A client on version 1 of the protocol's Python SDK: client1.py URL, the key in $CLIENT_KEY. See client2.py."""

import json
import os
import sys

import anyio
import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main(url):
    key = {"Authorization": f"Bearer {os.environ['CLIENT_KEY']}"}
    async with httpx.AsyncClient(headers=key, timeout=120) as http:
        async with streamable_http_client(url, http_client=http) as (read, write, _):
            async with ClientSession(read, write) as session:
                say(protocolVersion=(await session.initialize()).protocolVersion)
                while line := await anyio.to_thread.run_sync(sys.stdin.readline):
                    try:
                        result = await ask(session, **json.loads(line))
                        print(result.model_dump_json(by_alias=True, exclude_none=True), flush=True)
                    except Exception as error:
                        say(error=str(error) or repr(error))


async def ask(session, tool=None, arguments=None, meta=None):
    if tool is None:
        return await session.list_tools()
    return await session.call_tool(tool, arguments, meta=meta, progress_callback=nothing)


async def nothing(*_):
    """What is told of the call's progress."""


def say(**members):
    print(json.dumps(members), flush=True)


anyio.run(main, *sys.argv[1:])
