//! The interface and the error catalogue as pages, made from what is served.

use std::fmt::Write;
use std::sync::LazyLock;

use serde_json::Value;

use super::html::{self, Prose, Text};
use crate::request::Response;
use crate::{errors, openapi, reply};

/// The OpenAPI document as a page.
pub(crate) fn interface() -> Response {
    reply::page(INTERFACE.clone(), &POLICY)
}

/// The error catalogue as a page.
pub(crate) fn errors() -> Response {
    reply::page(ERRORS.clone(), &POLICY)
}

static POLICY: LazyLock<String> = LazyLock::new(|| html::policy(None));
static ERRORS: LazyLock<String> = LazyLock::new(write_errors);
static INTERFACE: LazyLock<String> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(openapi::text()).unwrap_or_default();
    write_interface(&document)
});

fn write_errors() -> String {
    let mut body = String::from(
        "<header class=\"mast\"><span><b>Countersign</b> error codes</span><a href=\"../docs\">Interface</a></header>\n\
         <main>\n<h1>Error codes</h1>\n<p class=\"lead\">Every code this gateway answers with, what it means and what \
         to do.</p>\n",
    );
    for entry in errors::all() {
        let kind = if entry.receipt { "an outcome, with a receipt" } else { "an error, without a receipt" };
        let _ = write!(
            body,
            "<section class=\"card operation\" id=\"{code}\"><h3><code>{code}</code></h3>\n\
             <p class=\"soft\">{} · {} · {kind}</p>\n<p><b>{}</b></p>\n<p>{}</p>\n<ul>",
            entry.status,
            entry.family,
            Prose(entry.message),
            Prose(entry.meaning),
            code = entry.code,
        );
        for advice in entry.remediation {
            let _ = write!(body, "<li>{}</li>", Prose(advice));
        }
        body.push_str("</ul></section>\n");
    }
    body.push_str("</main>\n");
    html::page("Error codes · Countersign", "", &body, "")
}

fn write_interface(document: &Value) -> String {
    let about = document["info"]["description"].as_str().unwrap_or_default();
    let mut body = String::from(
        "<header class=\"mast\"><span><b>Countersign</b> interface</span><span><a href=\"openapi.json\">OpenAPI</a> · \
         <a href=\"docs/errors\">Error codes</a></span></header>\n<main>\n<h1>Interface</h1>\n",
    );
    for paragraph in about.split("\n\n") {
        let _ = writeln!(body, "<p>{}</p>", Prose(paragraph));
    }
    let operations = operations(document);
    let mut tags: Vec<&str> = Vec::new();
    for operation in &operations {
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag);
        }
    }
    body.push_str("<nav class=\"card\"><ul>\n");
    for operation in &operations {
        let _ = writeln!(
            body,
            "<li><a href=\"#{}\"><span class=\"verb\">{}</span>{}</a></li>",
            Text(operation.id()),
            operation.verb(),
            Text(operation.path),
        );
    }
    body.push_str("</ul></nav>\n");
    for tag in tags {
        let _ = writeln!(body, "<h2>{}</h2>", Text(tag));
        for operation in operations.iter().filter(|operation| operation.tag == tag) {
            operation.write(&mut body);
        }
    }
    body.push_str("<h2>Forms</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        write_schema(&mut body, name, schema);
    }
    body.push_str("</main>\n");
    html::page("Interface · Countersign", "", &body, "")
}

struct Operation<'a> {
    tag: &'a str,
    path: &'a str,
    method: &'a str,
    value: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            item.as_object().into_iter().flatten().map(move |(method, value)| Operation {
                tag: value["tags"][0].as_str().unwrap_or_default(),
                path,
                method,
                value,
            })
        })
        .collect()
}

impl Operation<'_> {
    fn id(&self) -> &str {
        self.value["operationId"].as_str().unwrap_or_default()
    }

    fn verb(&self) -> &'static str {
        if self.method == "post" { "POST" } else { "GET" }
    }

    fn write(&self, body: &mut String) {
        let text = |name: &str| self.value[name].as_str().unwrap_or_default();
        let _ = write!(
            body,
            "<section class=\"card operation\" id=\"{}\"><h3><span class=\"verb\">{}</span><code>{}</code></h3>\n\
             <p><b>{}</b></p><p class=\"soft\">{}</p>\n",
            Text(self.id()),
            self.verb(),
            Text(self.path),
            Prose(text("summary")),
            Prose(text("description")),
        );
        let parameters = self.value["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let request = &self.value["requestBody"]["content"]["application/json"]["schema"];
        if !parameters.is_empty() || !request.is_null() {
            body.push_str("<dl>");
            for parameter in parameters {
                let of = |name: &str| parameter[name].as_str().unwrap_or_default();
                let required = if parameter["required"] == true { ", required" } else { "" };
                let _ = write!(
                    body,
                    "<dt><code>{}</code> <span class=\"soft\">{}{required}</span></dt><dd>{}</dd>",
                    Text(of("name")),
                    Text(of("in")),
                    Prose(of("description")),
                );
            }
            if !request.is_null() {
                let _ = write!(body, "<dt>body</dt><dd>{}</dd>", form(request));
            }
            body.push_str("</dl>");
        }
        body.push_str("<details><summary>Answers</summary><dl>");
        for (status, response) in self.value["responses"].as_object().into_iter().flatten() {
            let _ = write!(body, "<dt><code>{}</code></dt><dd>", Text(status));
            for line in response["description"].as_str().unwrap_or_default().split("\n\n") {
                let _ = write!(body, "{}<br>", Prose(line));
            }
            for (_, content) in response["content"].as_object().into_iter().flatten() {
                let _ = write!(body, "{} ", form(&content["schema"]));
            }
            body.push_str("</dd>");
        }
        body.push_str("</dl></details></section>\n");
    }
}

fn write_schema(body: &mut String, name: &str, schema: &Value) {
    let about = schema["description"].as_str().unwrap_or_default();
    let _ = write!(
        body,
        "<section class=\"card operation\" id=\"form-{name}\"><h3>{name}</h3><p class=\"soft\">{}</p><dl>",
        Prose(about),
        name = Text(name),
    );
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (member, value) in schema["properties"].as_object().into_iter().flatten() {
        let must = if required.iter().any(|name| name == member) { ", required" } else { "" };
        let _ = write!(
            body,
            "<dt><code>{}</code></dt><dd>{}<span class=\"soft\">{must}</span> {}</dd>",
            Text(member),
            form(value),
            Prose(value["description"].as_str().unwrap_or_default()),
        );
    }
    body.push_str("</dl></section>\n");
}

/// The type of a schema in a few words, with links to the forms it names.
fn form(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#form-{0}\">{0}</a>", Text(name));
    }
    for choice in ["oneOf", "allOf"] {
        if let Some(schemas) = schema[choice].as_array() {
            let forms: Vec<String> = schemas.iter().map(form).collect();
            return forms.join(" or ");
        }
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", form(&schema["items"])),
        Value::String(name) => Text(name).to_string(),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let list = schema.get("items").map(|items| format!(" of {}", form(items))).unwrap_or_default();
            format!("{}{list}", Text(&names.join(" or ")))
        }
        _ => "any".to_owned(),
    }
}
