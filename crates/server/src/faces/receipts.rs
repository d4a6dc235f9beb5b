//! Receipts: for their owners by id, for anybody by public address.

use gateway::{Code, Error, PublicReceipt};
use http::StatusCode;
use http::header::{ACCEPT, HeaderValue, REFERRER_POLICY, VARY};

use crate::pages::receipt_page;
use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// A receipt of the caller's, byte for byte.
pub(crate) async fn get(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    let document = gateway.receipt(&caller, &request.argument).await?;
    Ok(reply::bytes_of(StatusCode::OK, "application/json", document))
}

/// A receipt by its public address. Whoever has the address may look; nobody is told to search for it.
pub(crate) async fn public(request: Request) -> Result<Response, Error> {
    let (issuer, receipt) = find(&request).await?;
    let mut response = match wants_page(&request) {
        true => receipt_page::respond(&receipt, &issuer)?,
        false => {
            let mut response = reply::bytes_of(StatusCode::OK, "application/json", receipt.document);
            let headers = response.headers_mut();
            headers.insert("x-robots-tag", HeaderValue::from_static("noindex, nofollow"));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            response
        }
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Addresses are unique over both environments; each has its issuer.
async fn find(request: &Request) -> Result<(String, PublicReceipt), Error> {
    let nothing = || Error::new(Code::NotFound, "there is no such receipt");
    if !is_address(&request.argument) {
        return Err(nothing());
    }
    let faces = &request.site.faces;
    for gateway in std::iter::once(&faces.production).chain(&faces.sandbox) {
        match gateway.receipt_by_address(&request.argument).await {
            Err(error) if error.code == Code::NotFound => {}
            found => return found.map(|receipt| (gateway.issuer().to_owned(), receipt)),
        }
    }
    Err(nothing())
}

/// Twelve characters or a whole signature, base64url.
fn is_address(text: &str) -> bool {
    matches!(text.len(), 12 | 86)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Browsers name `text/html`, and before JSON if they name both.
fn wants_page(request: &Request) -> bool {
    let accept = request.head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    prefers_html(accept)
}

fn prefers_html(accept: &str) -> bool {
    let quality = |essence: &str| {
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|part| part.eq_ignore_ascii_case(essence))?;
            let given = parts.find_map(|part| part.strip_prefix("q="));
            Some(given.map_or(1.0, |given| given.parse::<f32>().unwrap_or(0.0)))
        })
    };
    let html = quality("text/html").unwrap_or(0.0);
    html > 0.0 && html >= quality("application/json").unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_the_document() {
        assert!(prefers_html("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(prefers_html("application/json;q=0.5, text/html"));
        for program in ["", "*/*", "application/json", "text/html;q=0", "application/json, text/html;q=0.9"] {
            assert!(!prefers_html(program), "{program}");
        }
    }

    #[test]
    fn an_address_is_short_or_a_signature() {
        assert!(is_address("AAAAbbbb-_12") && is_address(&"a".repeat(86)));
        for wrong in ["", "AAAAbbbb-_1", "AAAAbbbb-_1/", "AAAAbbbb-_1é", &"a".repeat(87)] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
