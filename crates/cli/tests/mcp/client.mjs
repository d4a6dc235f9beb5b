// A client on the protocol's TypeScript SDK: client.mjs URL MODULES, the key in $CLIENT_KEY. See client2.py.
import { createRequire } from "node:module";
import readline from "node:readline";

const [url, modules] = process.argv.slice(2);
const sdk = createRequire(`${modules}/`);
const { Client } = sdk("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = sdk("@modelcontextprotocol/sdk/client/streamableHttp.js");

const headers = { Authorization: `Bearer ${process.env.CLIENT_KEY}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client({ name: "client", version: "1" });
await client.connect(transport);
say({ protocolVersion: transport.protocolVersion });
for await (const line of readline.createInterface({ input: process.stdin })) {
  try {
    say(await ask(JSON.parse(line)));
  } catch (error) {
    say({ error: String(error) });
  }
}
await transport.terminateSession().catch(() => {});
await client.close();

function ask({ tool, arguments: given, meta }) {
  if (!tool) return client.listTools();
  return client.callTool({ name: tool, arguments: given, _meta: meta }, undefined, { onprogress: () => {} });
}

function say(members) {
  console.log(JSON.stringify(members));
}
