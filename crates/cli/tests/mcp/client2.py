"""A client on version 2 of the protocol's Python SDK: client2.py URL MODE, the key in $CLIENT_KEY.

It says which revision came about, then answers each line of its input, a list of tools or a call, with the result.
"""

import json
import os
import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url, mode):
    key = {"Authorization": f"Bearer {os.environ['CLIENT_KEY']}"}
    async with httpx2.AsyncClient(headers=key, timeout=120) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            say(protocolVersion=client.protocol_version)
            while line := await anyio.to_thread.run_sync(sys.stdin.readline):
                try:
                    result = await ask(client, **json.loads(line))
                    print(result.model_dump_json(by_alias=True, exclude_none=True), flush=True)
                except Exception as error:
                    say(error=str(error) or repr(error))


async def ask(client, tool=None, arguments=None, meta=None):
    if tool is None:
        return await client.list_tools()
    return await client.call_tool(tool, arguments, meta=meta, progress_callback=nothing)


async def nothing(*_):
    """What is told of the call's progress."""


def say(**members):
    print(json.dumps(members), flush=True)


anyio.run(main, *sys.argv[1:])
