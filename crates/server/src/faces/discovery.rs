//! What strangers need: key sets, the description of the interface, its pages.

use gateway::Error;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue, LOCATION};

use crate::openapi;
use crate::pages::docs_page;
use crate::reply;
use crate::request::{Request, Response};

/// The key set of one environment.
pub(crate) async fn jwks(request: Request) -> Result<Response, Error> {
    let document = request.gateway()?.jwks();
    let mut response = reply::bytes_of(StatusCode::OK, "application/json", document.as_bytes().to_vec());
    // Short: a compromise must become known.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    Ok(response)
}

/// The OpenAPI document.
pub(crate) async fn openapi(_: Request) -> Result<Response, Error> {
    Ok(reply::bytes_of(StatusCode::OK, "application/json", openapi::text()))
}

/// The way from the bare address to the page that says what is here.
pub(crate) async fn front(_: Request) -> Result<Response, Error> {
    let mut response = reply::bytes_of(StatusCode::SEE_OTHER, "text/html; charset=utf-8", "");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/docs"));
    Ok(response)
}

/// The OpenAPI document as a page.
pub(crate) async fn docs(_: Request) -> Result<Response, Error> {
    Ok(docs_page::interface())
}

/// The error catalogue as a page.
pub(crate) async fn errors(_: Request) -> Result<Response, Error> {
    Ok(docs_page::errors())
}
