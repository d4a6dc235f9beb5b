// Loaded before the conformance package, which has no option for a header: every request carries $CONFORMANCE_KEY.
import http from "node:http";
import { createRequire } from "node:module";

const authorization = `Bearer ${process.env.CONFORMANCE_KEY}`;

// Most scenarios ask by fetch or undici, which share a dispatcher; some by Node's own client.
const { getGlobalDispatcher, setGlobalDispatcher } = createRequire(process.argv[1])("undici");
const authorized = (dispatch) => (request, handler) =>
  dispatch({ ...request, headers: withKey(request.headers ?? {}) }, handler);
setGlobalDispatcher(getGlobalDispatcher().compose(authorized));

const { request } = http;
http.request = (options, answered) => request({ ...options, headers: withKey(options.headers) }, answered);

function withKey(headers) {
  return Array.isArray(headers) ? [...headers, "authorization", authorization] : { ...headers, authorization };
}
