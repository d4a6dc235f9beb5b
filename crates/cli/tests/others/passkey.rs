//! A passkey in Chromium: what a real browser makes of a challenge is what the crate `receipt` takes.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use receipt::approval::{Assertion, Credential, Enrolment, Refusal, RelyingParty};
use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::gateway::Gateway;

const CHALLENGE: [u8; 32] = [0xfb; 32];

#[test]
fn a_browsers_passkey_enrols_and_signs() {
    let Some(mut page) = Chromium::start() else { return };
    let gateway = Gateway::start();
    // Passkeys are for names, and a bare address has none.
    let origin = gateway.url.replace("127.0.0.1", "localhost");
    page.open(&format!("{origin}/docs"));
    page.call("WebAuthn.enable", json!({}));
    let options = json!({
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": true,
        "hasUserVerification": true,
        "isUserVerified": true,
        "automaticPresenceSimulation": true,
    });
    page.call("WebAuthn.addVirtualAuthenticator", json!({"options": options}));
    let party = RelyingParty { id: "localhost".to_owned(), origins: vec![origin.clone()] };

    let enrolment = create(&mut page);
    let credential = enrolment.verify(&CHALLENGE, &party).unwrap();
    let assertion = get(&mut page, &credential);
    assert_eq!(assertion.credential_id, credential.id);
    assertion.verify(&CHALLENGE, &party, &credential.public_key).unwrap();

    let elsewhere = RelyingParty { origins: vec![gateway.url.clone()], ..party.clone() };
    assert_eq!(enrolment.verify(&CHALLENGE, &elsewhere).unwrap_err(), Refusal::Origin);
    assert_eq!(assertion.verify(&[0; 32], &party, &credential.public_key), Err(Refusal::Challenge));
    let other = create(&mut page).verify(&CHALLENGE, &party).unwrap();
    assert_eq!(assertion.verify(&CHALLENGE, &party, &other.public_key), Err(Refusal::Signature));
}

fn create(page: &mut Chromium) -> Enrolment {
    let made = asked(
        page,
        "create({ publicKey: { challenge,
            rp: { id: 'localhost', name: 'Countersign' },
            user: { id: crypto.getRandomValues(new Uint8Array(16)), name: 'alice', displayName: 'Alice' },
            pubKeyCredParams: [{ type: 'public-key', alg: -7 }],
            authenticatorSelection: { userVerification: 'required' },
            attestation: 'none' } })",
    );
    Enrolment {
        attestation_object: bytes(&made["attestationObject"]),
        client_data_json: bytes(&made["clientDataJSON"]),
    }
}

fn get(page: &mut Chromium, credential: &Credential) -> Assertion {
    let id = BASE64_URL_SAFE_NO_PAD.encode(&credential.id);
    let made = asked(
        page,
        &format!(
            "get({{ publicKey: {{ challenge, rpId: 'localhost', userVerification: 'required',
                allowCredentials: [{{ type: 'public-key', id: from('{id}') }}] }} }})"
        ),
    );
    Assertion {
        credential_id: bytes(&made["id"]),
        authenticator_data: bytes(&made["authenticatorData"]),
        client_data_json: bytes(&made["clientDataJSON"]),
        signature: bytes(&made["signature"]),
    }
}

/// What the page's `navigator.credentials` answers, every buffer of it in base64url.
fn asked(page: &mut Chromium, call: &str) -> Value {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(CHALLENGE);
    page.value(&format!(
        "(async () => {{
            const from = (text) => Uint8Array.from(
                atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
            const into = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
                .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
            const challenge = from('{challenge}');
            const {{ rawId, response }} = await navigator.credentials.{call};
            const made = {{ id: into(rawId) }};
            for (const name of ['attestationObject', 'authenticatorData', 'clientDataJSON', 'signature']) {{
                if (response[name]) made[name] = into(response[name]);
            }}
            return made;
        }})()"
    ))
}

fn bytes(text: &Value) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text.as_str().expect("the browser answered it")).unwrap()
}
