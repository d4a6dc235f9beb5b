//! A proxy that only passes requests on: the least that anything between a client and its server costs, with the HTTP client and
//! the HTTP server that the gateway has, too.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;

use super::process;
use crate::child::{Server, this_program};
use crate::error::{Context, Result};
use crate::out;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where requests are passed on to.
    #[arg(long)]
    to: SocketAddr,
}

/// Starts one in a process of its own.
pub(crate) fn start(to: SocketAddr) -> Result<Server> {
    Server::start("proxy", this_program()?.args(["bench", "proxy", "--to", &to.to_string()]))
}

/// Serves until stdin closes.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::serve("proxy", serve(args.to))
}

async fn serve(to: SocketAddr) -> Result<()> {
    let cannot = || "cannot listen".to_owned();
    let client = reqwest::Client::builder().no_proxy().build().while_we(cannot)?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.while_we(cannot)?;
    out::line(format_args!("listening on http://{}", listener.local_addr().while_we(cannot)?))?;
    let routes = Router::new().route("/{*path}", post(pass)).with_state((client, to));
    axum::serve(listener, routes).await.while_we(cannot)
}

type Answer = std::result::Result<(StatusCode, HeaderMap, Bytes), StatusCode>;

async fn pass(
    State((client, to)): State<(reqwest::Client, SocketAddr)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request = client.post(format!("http://{to}{}", uri.path())).headers(end_to_end(headers)).body(body);
    let answer = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (status, headers) = (answer.status(), end_to_end(answer.headers().clone()));
    let body = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok((status, headers, body))
}

/// Without those that are about one connection.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
