//! Writing HTML: everything that comes from elsewhere is escaped on its way in.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

/// Text as HTML shows it, in content and in quoted attributes.
pub(crate) struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// Text in which `backticks` mark code, as our own fixed texts use them.
pub(crate) struct Prose<'a>(pub &'a str);

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('`').enumerate() {
            match index % 2 {
                0 => write!(f, "{}", Text(part))?,
                _ => write!(f, "<code>{}</code>", Text(part))?,
            }
        }
        Ok(())
    }
}

/// A whole page. `body` is HTML already; `attributes` stand in the body's tag.
pub(crate) fn page(title: &str, attributes: &str, body: &str, script: &str) -> String {
    let title = Text(title);
    let script = if script.is_empty() {
        String::new()
    } else {
        format!("<script type=\"module\">{script}</script>\n")
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex, nofollow\">\n<title>{title}</title>\n<style>{CSS}</style>\n</head>\n\
         <body{attributes}>\n<div class=\"sheet\">\n{body}</div>\n{script}</body>\n</html>\n"
    )
}

/// The content security policy of a page: our style sheet, at most one script, and questions to ourselves.
pub(crate) fn policy(script: Option<&str>) -> String {
    policy_for(script, "'none'")
}

/// The same of a page whose forms are sent to us.
pub(crate) fn policy_with_forms(script: &str) -> String {
    policy_for(Some(script), "'self'")
}

fn policy_for(script: Option<&str>, forms: &str) -> String {
    let style = hash(CSS);
    let script = match script {
        Some(script) => format!("script-src {}; connect-src 'self'; ", hash(script)),
        None => String::new(),
    };
    format!(
        "default-src 'none'; {script}style-src {style}; base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
    )
}

fn hash(inline: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(inline)))
}

const CSS: &str = include_str!("page.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_leave_its_place() {
        let text = Text("</script><img src=x onerror='a(\"b\")'>&amp;").to_string();
        assert_eq!(text, "&lt;/script&gt;&lt;img src=x onerror=&#39;a(&quot;b&quot;)&#39;&gt;&amp;amp;");
        assert_eq!(Prose("a `<b>` c").to_string(), "a <code>&lt;b&gt;</code> c");
    }
}
