//! Bare axum: the least that any answer over HTTP costs, with the same client and the same number of bytes.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;

use super::process;
use crate::child::{Server, this_program};
use crate::error::{Context, Result};
use crate::out;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Length of every answer.
    #[arg(long)]
    answer_bytes: usize,
}

/// Starts one in a process of its own.
pub(crate) fn start(answer_bytes: usize) -> Result<Server> {
    Server::start(
        "echo",
        this_program()?.args(["bench", "echo", "--answer-bytes", &answer_bytes.to_string()]),
    )
}

/// Serves until stdin closes.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::serve("echo", serve(args.answer_bytes))
}

async fn serve(answer_bytes: usize) -> Result<()> {
    let cannot = || "cannot listen".to_owned();
    // A text of JSON, for whoever reads it.
    let answer = Bytes::from(format!("\"{}\"", " ".repeat(answer_bytes.saturating_sub(2))));
    let reply = move |_body: Bytes| async move { ([(CONTENT_TYPE, "application/json")], answer) };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.while_we(cannot)?;
    out::line(format_args!("listening on http://{}", listener.local_addr().while_we(cannot)?))?;
    axum::serve(listener, Router::new().route("/api/execute", post(reply))).await.while_we(cannot)
}
