//! The receipt page in Chromium: what was signed verifies where it is read, one changed byte does not and its entry is
//! named, nothing leaves for another place, and it can be read by whoever opens it.

use serde_json::json;

use crate::chromium::Chromium;
use crate::gateway::Gateway;

#[test]
fn what_was_signed_verifies_where_it_is_read() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    let (blocked, executed) = (gateway.blocked("a"), gateway.executed("b"));
    for (receipt, mood, headline) in
        [(&blocked, "good", "Verified"), (&executed, "warn", "Verified, in the sandbox")]
    {
        page.open(&receipt.url);
        assert_eq!(verdict(&mut page), (mood.to_owned(), headline.to_owned()), "{}", sentence(&mut page));
        let checks = page.value("[...document.querySelectorAll('#checks li')].map((item) => item.className)");
        assert_eq!(checks, json!(vec!["passed"; 11]), "every check, none left out");
        let shown = page.value("[...document.querySelectorAll('tr[data-entry] b')].map((b) => b.innerText)");
        assert_eq!(shown, json!(receipt.stages()));
    }
    page.open(&blocked.url);
    let text = text_of(&mut page);
    assert!(text.contains("Blocked") && text.contains("hard denied"), "{text}");
}

#[test]
fn one_changed_byte_names_its_entry() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    let (receipt, another, foreign) = (gateway.executed("a"), gateway.executed("ab"), gateway.blocked("c"));
    page.open(&receipt.url);
    verdict(&mut page);
    let stages = receipt.stages();
    assert_eq!(stages.len(), 9);
    for (index, stage) in stages.iter().enumerate() {
        assert_eq!(paste(&mut page, &receipt.touched(stage)), "bad");
        let named = format!("The document below: entry {index} ({stage}): content does not fit its hash");
        assert_eq!(sentence(&mut page), named);
    }
    assert!(in_view(&mut page), "whoever asked below is shown the verdict above");

    press(&mut page, "reset");
    assert_eq!(verdict(&mut page).0, "warn", "the original still stands");
    assert_eq!(paste(&mut page, &another.document), "warn", "another receipt of this issuer");
    assert_eq!(paste(&mut page, &foreign.document), "bad", "production is another issuer than its sandbox");
    assert_eq!(paste(&mut page, "not a receipt"), "bad");
}

#[test]
fn nothing_leaves_and_nothing_else_runs() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    let served = gateway.get(&gateway.executed("a").url, "text/html");
    let policy = served.headers()["content-security-policy"].to_str().unwrap();
    for strict in ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|directive| directive == strict), "no {strict} in {policy}");
    }
    for loose in ["'unsafe", "*", "http:", "https:", "data:", "blob:"] {
        assert!(!policy.contains(loose), "{loose} in {policy}");
    }

    // A key that would be markup, were it not escaped.
    let hostile = "</textarea></script><img/src=//elsewhere.invalid/><script>alert(1)</script>";
    page.open(&gateway.executed(hostile).url);
    assert_eq!(verdict(&mut page).0, "warn");
    let brought = page.value("document.images.length + document.scripts.length");
    assert_eq!(brought, 2, "our script and the key set");
    let asked = requests(&page);
    assert!(asked.iter().all(|url| url.starts_with(&gateway.url)), "{asked:?}");
    assert!(asked.iter().any(|url| url.ends_with("/sandbox/.well-known/jwks.json")), "{asked:?}");
    let complaints = [page.events("Log.entryAdded"), page.events("Runtime.exceptionThrown")].concat();
    assert!(complaints.is_empty(), "the page breaks none of its own rules: {complaints:?}");

    // Even a script that ran in it could neither add one nor send anything away.
    let refused = page.refused(
        "const script = document.createElement('script');
        script.textContent = 'globalThis.ran = true';
        document.body.append(script, Object.assign(new Image(), { src: 'http://127.0.0.1:9/' }));
        await fetch('http://127.0.0.1:9/').catch(() => {});",
        3,
    );
    assert_eq!(refused, json!(["connect-src", "img-src", "script-src-elem"]));
    assert_eq!(page.value("globalThis.ran ?? 'did not run'"), "did not run");
}

#[test]
fn it_says_what_happened_without_javascript() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    let receipt = gateway.executed("a");
    page.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    page.open(&receipt.url);
    let text = text_of(&mut page);
    for told in
        ["Executed", "1.01 USD charged", "Not verified", "that needs JavaScript", "countersign verify ./"]
    {
        assert!(text.contains(told), "no {told} in {text}");
    }
    for stage in receipt.stages() {
        assert!(text.contains(&stage), "no {stage} in {text}");
    }
    assert!(!text.contains("Put back the original"), "no buttons that do nothing");
}

#[test]
fn it_fits_small_screens_and_reads_well_by_day_and_by_night() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    let receipt = gateway.executed("a");
    let mut papers = Vec::new();
    for (scheme, width) in [("light", 320), ("light", 1200), ("dark", 320), ("dark", 1200)] {
        let screen = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600});
        page.call("Emulation.setDeviceMetricsOverride", screen);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        page.call("Emulation.setEmulatedMedia", json!({"features": features}));
        page.open(&receipt.url);
        verdict(&mut page);
        for document in [&receipt.document, &receipt.touched("boundary")] {
            paste(&mut page, document);
            page.value("for (const details of document.querySelectorAll('details')) details.open = true");
            let wide = page.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64().unwrap() <= width, "{wide} wide on a screen of {width}");
            let inner = "[...document.querySelectorAll('.scroll, pre')].filter((box) => box.scrollWidth > box.clientWidth)";
            assert_eq!(page.value(&format!("{inner}.length")), 0, "nothing is hidden at the side, {width}");
            assert_eq!(page.poor(), json!([]), "{scheme}");
        }
        papers.push(page.value("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(papers[0], papers[2], "day and night differ");
}

/// Mood and headline of the banner, once there are any. Elements of the page go by their ids.
fn verdict(page: &mut Chromium) -> (String, String) {
    page.wait_for("verdict.dataset.verdict !== 'pending'");
    let said = page.value("[verdict.dataset.verdict, headline.innerText]");
    (said[0].as_str().unwrap().to_owned(), said[1].as_str().unwrap().to_owned())
}

fn sentence(page: &mut Chromium) -> String {
    page.value("sentence.innerText").as_str().unwrap().to_owned()
}

/// Puts a document into the page as a person would, and has it verified; the mood of the answer.
fn paste(page: &mut Chromium, document: &str) -> String {
    page.value("document.getElementById('document').select()");
    page.call("Input.insertText", json!({"text": document}));
    press(page, "check");
    verdict(page).0
}

/// Presses a button. The banner says that it is at work before this returns.
fn press(page: &mut Chromium, button: &str) {
    page.value(&format!("document.getElementById('{button}').click()"));
}

fn in_view(page: &mut Chromium) -> bool {
    page.value("verdict.getBoundingClientRect().top").as_f64().unwrap() >= 0.0
}

/// The text a reader sees.
fn text_of(page: &mut Chromium) -> String {
    page.value("document.body.innerText").as_str().unwrap().to_owned()
}

fn requests(page: &Chromium) -> Vec<String> {
    let sent = page.events("Network.requestWillBeSent");
    sent.iter().map(|event| event["request"]["url"].as_str().unwrap().to_owned()).collect()
}
