//! Signed notes: other tools' are read, ours are theirs, and an altered one is refused.

use countersign_receipt::log::{Checkpoint, Error, Note, Plan, Signer, Verifier, empty_root, leaf_hash};

use crate::log_proofs::golden;

/// From the specification, c2sp.org/signed-note.
const FOO: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const FOO_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
/// From the documentation of golang.org/x/mod/sumdb/note.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: "gateway.example/log/default".to_owned(), size: 42, root: leaf_hash(b"x") }
}

/// A key for tests only: 32 bytes 7.
pub(crate) fn signer() -> Signer {
    // PKCS#8 of an Ed25519 seed, RFC 8410.
    let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[7; 32]].concat();
    Signer::from_pkcs8(&der).unwrap()
}

/// A witness for tests only: 32 bytes of its number.
pub(crate) fn witness(number: u8) -> Signer {
    let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[number; 32]].concat();
    Signer::from_pkcs8(&der).unwrap()
}

#[test]
fn notes_of_other_tools_verify() {
    for (key, note) in [(FOO, FOO_NOTE), (PETER, PETER_NOTE)] {
        let verifier: Verifier = key.parse().unwrap();
        assert_eq!(verifier.to_string(), key);
        let read = Note::parse(note).unwrap();
        assert_eq!(read.signed_by(&verifier), Ok(Some(0)));
        assert_eq!(read.to_string(), note);
        let altered = Note::parse(&note.replacen("is", "as", 1)).unwrap();
        assert!(matches!(altered.signed_by(&verifier), Err(Error::Note(_))));
        assert_eq!(read.signed_by(&signer().log("example.com/foo").unwrap()), Ok(None));
    }
}

#[test]
fn a_checkpoint_has_one_note_and_says_what_was_signed() {
    let (signer, checkpoint) = (signer(), checkpoint());
    let log = signer.log(&checkpoint.origin).unwrap();
    let note = signer.sign(&checkpoint).unwrap();
    assert_eq!(signer.sign(&checkpoint).unwrap(), note);
    assert_eq!(log.to_string().parse(), Ok(log.clone()));
    assert_eq!(Checkpoint::of(&Note::parse(&note.to_string()).unwrap(), &log), Ok(checkpoint.clone()));
    let golden = golden("checkpoint.note", format!("{note}{log}\n").as_bytes());
    assert_eq!(String::from_utf8(golden).unwrap(), format!("{note}{log}\n"));

    let elsewhere = Checkpoint { origin: "gateway.example/log/other".to_owned(), ..checkpoint.clone() };
    let other = signer.log(&elsewhere.origin).unwrap();
    assert!(matches!(Checkpoint::of(&note, &other), Err(Error::Note(_))));
    // A key signs for one log only, though it is the same key: the text names another.
    let text = checkpoint.to_string();
    assert_eq!(text.parse(), Ok(checkpoint));
    let stranger = Signer::generate().unwrap();
    let kept = Signer::from_pkcs8(&stranger.to_pkcs8().unwrap()).unwrap();
    assert_eq!(kept.log("a").unwrap(), stranger.log("a").unwrap());
    assert!(Signer::from_pkcs8(b"no key").is_err());
}

#[test]
fn witnesses_sign_text_and_time() {
    let (checkpoint, one, two) = (checkpoint(), witness(1), witness(2));
    let note = signer().sign(&checkpoint).unwrap();
    let line = one.cosign("w1.example", &note, 1_700_000_000).unwrap();
    let other = two.cosign("w2.example", &note, 5).unwrap();
    let note = note.cosigned(&one.witness("w1.example").unwrap(), &line).unwrap();
    let note = note.cosigned(&two.witness("w2.example").unwrap(), &other).unwrap();
    let note = Note::parse(&note.to_string()).unwrap();
    assert_eq!(note.signed_by(&one.witness("w1.example").unwrap()), Ok(Some(1_700_000_000)));
    assert_eq!(note.signed_by(&two.witness("w2.example").unwrap()), Ok(Some(5)));
    assert_eq!(note.signed_by(&two.witness("w1.example").unwrap()), Ok(None));
    assert_eq!(note.signed_by(&signer().log(&checkpoint.origin).unwrap()), Ok(Some(0)));
    // What a witness signs is nothing that it signed as a log.
    assert_eq!(note.signed_by(&one.log("w1.example").unwrap()), Ok(None));
    assert!(matches!(Checkpoint::of(&note, &one.witness("w1.example").unwrap()), Err(Error::Key(_))));
    let again = one.cosign("w1.example", &note, 1_700_000_009).unwrap();
    let same = note.clone().cosigned(&one.witness("w1.example").unwrap(), &again).unwrap();
    assert_eq!(same, note, "a witness stands there once, by what it signed first");
    // Whoever signs twice signed at the earlier time.
    for lines in [format!("{note}{again}\n"), format!("{}{again}\n{line}\n", note_of(&checkpoint))] {
        let twice = Note::parse(&lines).unwrap();
        assert_eq!(twice.signed_by(&one.witness("w1.example").unwrap()), Ok(Some(1_700_000_000)));
    }
}

#[test]
fn of_what_a_witness_answers_its_own_good_line_is_taken_and_no_other() {
    let (checkpoint, one, two) = (checkpoint(), witness(1), witness(2));
    let note = note_of(&checkpoint);
    let (log, key) = (signer().log(&checkpoint.origin).unwrap(), one.witness("w1.example").unwrap());
    let good = one.cosign("w1.example", &note, 5).unwrap();
    // In the log's name, in another witness's, in its own, and 63 that are nobody's.
    let in_the_name_of = |line: String, byte: usize| line.replace(&line[byte..byte + 4], "AAAA");
    let forged = note.to_string().lines().last().unwrap().to_owned();
    let mut lines = vec![in_the_name_of(forged.clone(), forged.len() - 40)];
    let others = two.cosign("w2.example", &note, 5).unwrap();
    lines.push(in_the_name_of(others.clone(), others.len() - 40));
    lines.push(
        one.cosign("w1.example", &signer().sign(&Checkpoint { size: 9, ..checkpoint.clone() }).unwrap(), 5)
            .unwrap(),
    );
    lines.extend((0..63).map(|n| two.cosign(&format!("nobody-{n}"), &note, 5).unwrap()));
    lines.push(good.clone());
    lines.push("no signature at all".to_owned());
    let cosigned = note.clone().cosigned(&key, &lines.join("\n")).unwrap();
    assert_eq!(cosigned, note.clone().cosigned(&key, &good).unwrap());
    assert_eq!(cosigned.signed_by(&key), Ok(Some(5)));
    assert_eq!(Checkpoint::of(&cosigned, &log), Ok(checkpoint));
    // Without its own there is nothing to take.
    lines.retain(|line| *line != good);
    assert!(note.cosigned(&key, &lines.join("\n")).is_err());
}

fn note_of(checkpoint: &Checkpoint) -> Note {
    signer().sign(checkpoint).unwrap()
}

#[test]
fn a_flipped_bit_of_any_byte_of_a_note_is_found() {
    let (checkpoint, witness) = (checkpoint(), witness(1));
    let note = note_of(&checkpoint);
    let note = format!("{note}{}\n", witness.cosign("w.example", &note, 1_700_000_000).unwrap());
    let (log, seen_by) = (signer().log(&checkpoint.origin).unwrap(), witness.witness("w.example").unwrap());
    let holds = |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(note) = Note::parse(text) else { return false };
        Checkpoint::of(&note, &log) == Ok(checkpoint.clone())
            && note.signed_by(&seen_by) == Ok(Some(1_700_000_000))
    };
    assert!(holds(note.as_bytes()));
    for place in 0..note.len() {
        for bit in 0..8 {
            let mut altered = note.clone().into_bytes();
            altered[place] ^= 1 << bit;
            assert!(!holds(&altered), "bit {bit} of byte {place}");
        }
        assert!(!holds(&note.as_bytes()[..place]));
    }
}

#[test]
fn what_is_no_note_is_refused() {
    let line = FOO_NOTE.lines().last().unwrap();
    for note in [
        "",
        "text\n",
        "text\n\n",
        &format!("text\n\n{line}"),
        &format!("text\n{line}\n"),
        &format!("te\txt\n\n{line}\n"),
        &format!("text\r\n\n{line}\n"),
        &format!("text\n\n{line}\n\n"),
        &format!("text\n\n{}\n", line.replace('\u{2014}', "-")),
        &format!("text\n\n{}\n", line.replace("example.com/foo", "example com")),
        &format!("text\n\n{}\n", line.replace("example.com/foo", "a+b")),
        "text\n\n\u{2014} a AAAA\n",
        "text\n\n\u{2014} a AAAAAA==\n",
        &format!("text\n\n{}", format!("{line}\n").repeat(65)),
        &format!("{}\n\n{line}\n", "x".repeat(256 << 10)),
    ] {
        assert!(
            matches!(Note::parse(note), Err(Error::Note(_))),
            "{}",
            note.chars().take(80).collect::<String>()
        );
    }
    // As many as a reader has to take, and text with an empty line in it.
    Note::parse(&format!("a\n\nb\n\n{}", format!("{line}\n").repeat(16))).unwrap();
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let good = checkpoint().to_string();
    let root = good.lines().nth(2).unwrap();
    for text in [
        "".to_owned(),
        good.trim_end().to_owned(),
        format!("{good}\n"),
        format!("{good}extension\n"),
        good.replace("42", "042"),
        good.replace("42", "+42"),
        good.replace("42", "-1"),
        good.replace("42", "18446744073709551616"),
        good.replace("gateway.example/log/default", ""),
        good.replace(root, &root[4..]),
        good.replace(root, &root.replace('=', "")),
        good.replace('\n', "\r\n"),
    ] {
        assert!(matches!(text.parse::<Checkpoint>(), Err(Error::Checkpoint(_))), "{text:?}");
    }
}

#[test]
fn what_is_no_key_is_refused() {
    for text in [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        &FOO.replace("530d903a", "530D903A"),
        &FOO.replace("530d903a", "530d903b"),
        &FOO.replace("example.com/foo", "example.com/bar"),
        &FOO.replace("example.com/foo", ""),
        &FOO.replace("example.com/foo", "example.com foo"),
        &FOO.replace("+AekyeRrm", "+AukyeRrm"),
        &FOO[..FOO.len() - 4],
        &format!("{FOO}="),
    ] {
        assert!(matches!(text.parse::<Verifier>(), Err(Error::Key(_))), "{text}");
    }
    for name in ["", "a b", "a+b", "a\n"] {
        assert!(matches!(signer().log(name), Err(Error::Key(_))), "{name:?}");
    }
    assert!(!format!("{:?}", signer()).contains("07070707"));
}

#[test]
fn a_checkpoint_follows_only_what_it_extends() {
    let leaves: Vec<_> = (0..20_u8).map(|number| leaf_hash(&[number])).collect();
    let all = crate::log_tree::grown(leaves);
    let said = |size: usize| Checkpoint {
        origin: "gateway.example/log/default".to_owned(),
        size: size as u64,
        root: if size == 0 { empty_root() } else { all.root(size) },
    };
    let proof = |from, to| Plan::consistency(from, to).unwrap().hashes(&all.tiles).unwrap();
    said(20).follows(&said(7), &proof(7, 20)).unwrap();
    said(7).follows(&said(7), &[]).unwrap();
    // Whoever saw nothing yet has nothing to compare.
    said(20).follows(&said(0), &[]).unwrap();
    said(0).follows(&said(0), &[]).unwrap();
    let smaller = said(7).follows(&said(8), &[]);
    assert_eq!(smaller, Err(Error::Checkpoint("it is of a smaller log than was seen before")));
    let fork = Checkpoint { root: all.root(6), ..said(7) };
    assert_eq!(fork.follows(&said(7), &[]), Err(Error::Proof("two roots of one size")));
    assert!(said(20).follows(&fork, &proof(7, 20)).is_err());
    assert!(said(20).follows(&said(7), &proof(8, 20)).is_err());
    let elsewhere = Checkpoint { origin: "other".to_owned(), ..said(20) };
    assert_eq!(elsewhere.follows(&said(7), &proof(7, 20)), Err(Error::Checkpoint("it is of another log")));
}

#[test]
fn a_log_that_began_anew_stands_in_a_pin_beside_the_one_before() {
    let signer = signer();
    let key = |name: &str| signer.log(name).unwrap().to_string();
    let (before, now) = (key("a.example/log/default"), key("a.example/log/default/epoch-2"));
    let pin = |logs: [&str; 2]| {
        let digest = format!("sha256:{}", "0".repeat(64));
        countersign_receipt::Pin::parse(
            &serde_json::json!({"issuer": "https://a.example", "jwks": [digest], "logs": logs}).to_string(),
        )
    };
    for (name, epoch) in [
        ("a/epoch-2", ("a", 2)),
        ("a/epoch-1777593600", ("a", 1_777_593_600)),
        ("a", ("a", 1)),
        ("a/epoch-02", ("a/epoch-02", 1)),
        ("a/epoch-+2", ("a/epoch-+2", 1)),
        ("a/epoch-1777593600177759", ("a/epoch-1777593600177759", 1)),
    ] {
        assert_eq!(countersign_receipt::log::epoch_of(name), epoch);
    }
    assert!(pin([&before, &now]).is_ok(), "they have one key");
    assert!(pin([&now, &now]).is_err());
}
