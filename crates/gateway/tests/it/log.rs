//! The transparency log of a gateway: receipts are promised a place in it, get it, and are shown to have it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_gateway::config::Secret;
use countersign_gateway::{Code, Decision, Forgotten, Installation, Why};
use receipt::log::{
    AddCheckpoint, Bundle, Checkpoint, LeafKind, NOTHING_SHOWN, Note, Proof, Signer, Verifier, epoch_of,
};
use receipt::{Document, Jwks, Pin, Trust, Verdict};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection};

use crate::banked;
use crate::house::House;
use crate::resolutions::resolve;

async fn running() -> House {
    let mut house = House::new().await;
    house.installation.start();
    house
}

pub(crate) async fn paid(house: &House, key: &str) -> String {
    let said = house.said(key, &house.payment(key, "10.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    said.body["receipt"].as_str().unwrap().to_owned()
}

/// The bundle of a receipt, as soon as there is one.
pub(crate) async fn bundle(house: &House, receipt: &str) -> Bundle {
    for _ in 0..2000 {
        match house.gateway().receipt_bundle(&house.agent, receipt).await {
            Ok(bundle) => return Bundle::parse(&bundle).unwrap(),
            Err(error) => assert_eq!(error.code, Code::NotFound, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{receipt}` was never logged");
}

pub(crate) fn key(house: &House) -> Verifier {
    house.gateway().log_key(&house.agent).unwrap().parse().unwrap()
}

/// What is signed of the log.
pub(crate) fn checkpoint(house: &House) -> Checkpoint {
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    Checkpoint::of(&Note::parse(&note).unwrap(), &key(house)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_logged_soon_and_shown_to_be_with_nothing_but_the_pin() {
    let house = running().await;
    let first = bundle(&house, &paid(&house, "a").await).await;
    let second = bundle(&house, &paid(&house, "b").await).await;
    let gateway = house.gateway();
    let jwks = Jwks::parse(gateway.jwks().as_bytes()).unwrap();
    let pin = Pin::new(gateway.issuer(), &jwks).and_log(key(&house));
    for bundle in [&first, &second] {
        let trust =
            Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(&pin, &bundle.jwks) };
        let report = receipt::verify(&bundle.receipt, &trust);
        assert_eq!(report.verdict, Verdict::Valid, "{report:?}");
        assert_eq!(bundle.proof.place.leaf.kind, LeafKind::Terminal);
    }
    // Each signs what there was of the log when it was made, so that two holders find out if they were shown two logs.
    let seen = |bundle: &Bundle| {
        let text = std::str::from_utf8(&bundle.receipt).unwrap().to_owned();
        let log = Document::parse(&text).unwrap().content.metadata.log.unwrap();
        (log.origin.into_owned(), log.size, log.root.into_owned(), log.promise.unwrap().merge_by)
    };
    let (origin, size, root, merge_by) = seen(&second);
    let of_first = Checkpoint::of(&first.proof.note, &key(&house)).unwrap();
    assert!(size >= of_first.size);
    if size == of_first.size {
        assert_eq!((&*origin, root), (&*of_first.origin, hex::encode(of_first.root)));
    }
    assert!(merge_by > Document::parse(std::str::from_utf8(&second.receipt).unwrap()).unwrap().created);
    // The proof alone is what the bundle has.
    let id = Document::parse(std::str::from_utf8(&second.receipt).unwrap()).unwrap().content.receipt_id;
    let proof = Proof::parse(&gateway.receipt_proof(&house.agent, &id).await.unwrap()).unwrap();
    assert_eq!((proof.place.index, proof.place.leaf), (second.proof.place.index, second.proof.place.leaf));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_proofs_of_what_is_theirs_and_nothing_else_of_the_log() {
    let house = running().await;
    let receipt = paid(&house, "a").await;
    bundle(&house, &receipt).await;
    let (gateway, agent, operator) = (house.gateway(), &house.agent, &house.operator);
    let code = |result: Result<(), countersign_gateway::Error>| result.unwrap_err().code;
    assert_eq!(code(gateway.log_checkpoint(agent).map(drop)), Code::Forbidden);
    assert_eq!(code(gateway.log_resource(agent, "tile/0/000.p/1").await.map(drop)), Code::Forbidden);
    assert_eq!(code(gateway.log_consistency(agent, 1, 1).await.map(drop)), Code::Forbidden);
    let stranger = countersign_gateway::Caller {
        subject: action::Subject::parse("agent-8").unwrap(),
        ..house.agent.clone()
    };
    assert_eq!(code(gateway.receipt_proof(&stranger, &receipt).await.map(drop)), Code::NotFound);
    // Whoever may read the tenant makes every proof alone.
    let size = checkpoint(&house).size;
    let hashes = gateway.log_resource(operator, &format!("tile/0/000.p/{size}")).await.unwrap();
    let entries = gateway.log_resource(operator, &format!("tile/entries/000.p/{size}")).await.unwrap();
    assert_eq!(receipt::log::entries_of(&entries, &hashes).unwrap().len() as u64, size);
    gateway.log_consistency(operator, 1, size).await.unwrap();
    for path in [
        "tile/0/000",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "checkpoint",
        "tile/0/0",
        &format!("tile/0/000.p/{}", size + 100),
    ] {
        assert_eq!(code(gateway.log_resource(operator, path).await.map(drop)), Code::NotFound, "{path}");
    }
    for (from, to) in [(0, size), (size, size + 1000), (2, 1)] {
        let refused = code(gateway.log_consistency(operator, from, to).await.map(drop));
        assert_eq!(refused, Code::ValidationFailed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_after_a_restart_and_keeps_its_key() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let (before, key_before) = (checkpoint(&house), key(&house));
    let mut house = house.restart().await;
    // Before anything is logged again it is what was signed last.
    assert_eq!((checkpoint(&house), key(&house)), (before.clone(), key_before));
    house.installation.start();
    bundle(&house, &paid(&house, "b").await).await;
    let after = checkpoint(&house);
    let proof = house.gateway().log_consistency(&house.operator, before.size, after.size).await.unwrap();
    let proof: Vec<[u8; 32]> = proof.iter().map(|hash| decoded(hash)).collect();
    after.follows(&before, &proof).unwrap();
}

fn decoded(text: &str) -> [u8; 32] {
    use base64::Engine;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_put_back_takes_nothing_on_and_gets_no_second_root_of_a_size() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    bundle(&house, &paid(&house, "lost").await).await;
    let signed = checkpoint(&house);

    let mut house = put_back(house, &backup).await;
    house.installation.start();
    let gaps = house.gateway().gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((&gaps[0].origin, gaps[0].signed), (&signed.origin, signed.size));
    assert!(gaps[0].stored < signed.size && house.gateway().ready().is_err());
    let refused = house.send("after", &house.payment("after", "10.00")).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    assert_eq!(checkpoint(&house), signed);

    house.gateway().begin_anew().await.unwrap();
    let mut house = house.restart().await;
    house.installation.start();
    let after = bundle(&house, &paid(&house, "after").await).await;
    assert_eq!(house.gateway().gaps(), []);
    let second = Checkpoint::of(&after.proof.note, &key(&house)).unwrap().origin;
    let (name, epoch) = epoch_of(&second);
    assert!(name == signed.origin && epoch > 1_700_000_000, "{second}");
    // What was signed of the log before is still there to be shown.
    let kept = marks(&house).into_iter().map(|file| std::fs::read_to_string(file).unwrap());
    assert!(kept.into_iter().any(|note| note.starts_with(&format!("{}\n{}\n", signed.origin, signed.size))));
    // A second restore, to before that: the next epoch is not the one that was signed.
    let house = put_back(house, &backup).await;
    assert_eq!(house.gateway().gaps()[0].origin, second);
    house.gateway().begin_anew().await.unwrap();
    let house = house.restart().await;
    assert!(epoch_of(key(&house).name()).1 > epoch, "{}", key(&house).name());
}

/// A house whose payments a bank carries out by this binding, with a backup of its store.
pub(crate) async fn backed_up(text: impl Fn(&Bank) -> String) -> (House, Bank, PathBuf) {
    let bank = banked::bank("USD").await;
    let mut house = House::bound(&text(&bank), |config| banked::reaching(config, &[&bank])).await;
    house.installation.start();
    bundle(&house, &paid(&house, "acct-1").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    (house, bank, backup)
}

/// One that has forgotten the last payment, `acct-2`: its id.
pub(crate) async fn forgetful(text: impl Fn(&Bank) -> String) -> (House, Bank, String) {
    let (house, bank, backup) = backed_up(text).await;
    let said = house.said("acct-2", &house.payment("acct-2", "10.00")).await;
    bundle(&house, said.body["receipt"].as_str().unwrap()).await;
    (put_back(house, &backup).await, bank, said.id().to_owned())
}

/// It is recovered, and runs.
pub(crate) async fn recovered(house: House) -> House {
    house.gateway().begin_anew().await.unwrap();
    let mut house = house.restart().await;
    house.installation.start();
    house
}

/// Why payments may be made twice.
pub(crate) fn may_be_twice(house: &House, forgotten: Forgotten) -> Vec<Why> {
    let repeats = house.gateway().may_be_twice(forgotten).into_iter();
    repeats.filter(|it| it.archetype == "PAYMENT_TRANSFER").flat_map(|it| it.why).collect()
}

pub(crate) const THREE_TIMES: &str = "max_retries = 3\ninitial_delay_seconds = 0";
pub(crate) const ONCE: &str = "max_retries = 0";

/// A bank that recognises its keys and cannot be asked, and is told of another action each time.
fn told_the_action(bank: &Bank) -> String {
    banked::retrying(bank, banked::Promise::Idempotent, THREE_TIMES)
        .swapped("reference = { \"$action\" = \"reference\" }", "reference = { \"$action\" = \"id\" }")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_says_that_it_has_done_is_not_done_again_after_a_recovery() {
    for promise in [banked::Promise::Both, banked::Promise::Queryable, banked::Promise::Idempotent] {
        let (house, bank, forgotten) = forgetful(|bank| banked::retrying(bank, promise, THREE_TIMES)).await;
        let risks = may_be_twice(&house, house.gateway().forgotten().await.unwrap());
        match promise {
            banked::Promise::Idempotent => assert_eq!(risks, [Why::LaterAttempt]),
            _ => assert_eq!(risks, []),
        }
        let house = recovered(house).await;
        let said = house.said("acct-2", &house.payment("acct-2", "10.00")).await;
        assert_eq!((said.kind(), bank.effects().count), ("executed", 2), "{}", said.body);
        assert_ne!(said.id(), forgotten);
        // And what was never asked for is done.
        let said = house.said("acct-3", &house.payment("acct-3", "10.00")).await;
        assert_eq!((said.kind(), bank.effects().count), ("executed", 3), "{}", said.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_attempt_has_done_is_not_done_again_after_a_recovery() {
    for (retry, by_hand) in [(THREE_TIMES, false), (ONCE, true)] {
        let (house, bank, backup) =
            backed_up(|bank| banked::retrying(bank, banked::Promise::Queryable, retry)).await;
        bank.inject(Injection::payments(Fault::RateLimited { retry_after: 0 }, 1));
        let body = house.payment("acct-2", "10.00");
        let said = house.said("acct-2", &body).await;
        if by_hand {
            assert_eq!(said.kind(), "failed", "{}", said.body);
            house.gateway().retry(&house.agent, said.id()).await.unwrap();
        }
        house.until("acct-2", &body, "executed").await;
        let record = house.record(said.id()).await;
        let done_by = record.attempts.last().unwrap().reference.clone();
        assert!(done_by.ends_with("-2"), "{done_by}");
        bundle(&house, &record.receipts.last().unwrap().receipt.receipt_id).await;

        let house = recovered(put_back(house, &backup).await).await;
        let said = house.said("acct-2", &body).await;
        assert_eq!((said.kind(), bank.effects().count), ("executed", 2), "{}", said.body);
        let attempts = house.record(said.id()).await.attempts;
        assert_eq!(attempts.iter().map(|it| &it.reference).collect::<Vec<_>>(), [&done_by]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_forgotten_of_an_action_that_was_not_is_not_made_again() {
    for between in [0, 1] {
        let bank = banked::bank("USD").await;
        let text = banked::retrying(&bank, banked::Promise::Queryable, ONCE);
        let mut house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
        house.installation.start();
        let refused = || bank.inject(Injection::payments(Fault::RateLimited { retry_after: 0 }, 1));
        refused();
        let said = house.said("acct-1", &house.payment("acct-1", "10.00")).await;
        assert_eq!(said.kind(), "failed", "{}", said.body);
        bundle(&house, said.body["receipt"].as_str().unwrap()).await;
        let backup = house.path("backup.db");
        house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
        for _ in 0..between {
            refused();
            assert_eq!(house.gateway().retry(&house.agent, said.id()).await.unwrap().state, "FAILED");
        }
        let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
        assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
        let done_by = record.attempts.last().unwrap().reference.clone();
        bundle(&house, &record.receipts.last().unwrap().receipt.receipt_id).await;

        let house = recovered(put_back(house, &backup).await).await;
        assert_eq!(house.record(said.id()).await.state, "FAILED");
        let record = house.gateway().retry(&house.agent, said.id()).await.unwrap();
        assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 1));
        assert_eq!(record.attempts.last().unwrap().reference, done_by);
        assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_under_a_key_that_was_forgotten_is_not_taken_for_done() {
    let (house, bank, _) =
        forgetful(|bank| banked::retrying(bank, banked::Promise::Queryable, THREE_TIMES)).await;
    let house = recovered(house).await;
    let said = house.said("acct-2", &house.payment("acct-2", "11.00")).await;
    // This bank knows the key and says so.
    assert_eq!((said.kind(), said.reasons()), ("failed", vec!["provider_refused"]), "{}", said.body);
    assert_eq!(bank.effects().count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_after_a_recovery_as_long_as_the_provider_does_not_say_what_it_has_done() {
    let (house, bank, _) =
        forgetful(|bank| banked::retrying(bank, banked::Promise::Queryable, THREE_TIMES)).await;
    let house = recovered(house).await;
    let body = house.payment("acct-2", "10.00");
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
    let refused = house.send("acct-2", &body).await.unwrap_err();
    assert!(refused.code == Code::Unavailable && refused.to_string().contains("put back"), "{refused}");
    bank.clear_faults();
    let said = house.said("acct-2", &body).await;
    assert_eq!((said.kind(), bank.effects().count), ("executed", 2), "{}", said.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_provider_refuses_after_a_recovery_may_be_done_and_is_not_tried_again() {
    let (house, bank, forgotten) = forgetful(told_the_action).await;
    let told = house.gateway().forgotten().await.unwrap();
    assert_eq!(may_be_twice(&house, told), [Why::NamesAction, Why::LaterAttempt]);
    // For as long as the provider keeps its keys at most.
    let longer = Forgotten { since_ms: told.since_ms - 90_000_000, ..told };
    assert_eq!(may_be_twice(&house, longer), [Why::NotRecognised]);

    let house = recovered(house).await;
    // The bank has it under this key, for another action of ours.
    let body = house.payment("acct-2", "10.00");
    let said = house.said("acct-2", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    assert_ne!(said.id(), forgotten);
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert_eq!((refused.code, house.record(said.id()).await.phase), (Code::StateConflict, Some("in_doubt")));
    // A person who has looked says so, and has the last word.
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), bank.effects().count), ("COMPLETED", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_leave_after_a_recovery_is_not_tried_again_under_another_key() {
    let idempotent = |bank: &Bank| banked::retrying(bank, banked::Promise::Idempotent, THREE_TIMES);
    let (house, bank, _) = forgetful(idempotent).await;
    house.gateway().begin_anew().await.unwrap();
    // Nobody is given it as long as it was taken of late.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut house = house;
    house.config.egress.allow.push(nowhere.to_string());
    house.config.egress.plain_http.push(nowhere.to_string());
    if let Some(Secret::Static(bank)) = house.config.secrets.get_mut("bank") {
        bank.hosts.push(nowhere.to_string());
    }
    let mut house = house.restart().await;
    house.installation.start();
    let text = idempotent(&bank);
    let nowhere = text.replace(&bank.address().to_string(), &nowhere.to_string());
    house.rebind(&nowhere).await;
    let said = house.said("acct-2", &house.payment("acct-2", "10.00")).await;
    assert_eq!((said.kind(), said.reasons()), ("failed", vec!["not_sent"]), "{}", said.body);
    house.rebind(&text).await;
    assert_eq!(house.record(said.id()).await.attempts.len(), 1);
    let refused = house.gateway().retry(&house.agent, said.id()).await.unwrap_err();
    assert!(refused.code == Code::StateConflict && refused.to_string().contains("recovered"), "{refused}");
    assert_eq!(bank.effects().count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_key_is_lost_gets_no_other_one_in_silence() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let (config, store) = (house.config.clone(), house.path("data/production.db"));
    // The store is of a time before the tenant was.
    drop(house.installation);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", store.display()));
    }
    let keys = || {
        let store = rusqlite::Connection::open(&store).unwrap();
        store.query_row("SELECT count(*) FROM tenant_key", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    let render = |_: &_, _: &_| countersign_gateway::Reply { status: 200, body: Vec::new() };
    let why = Installation::open(config.clone(), render).await.err().unwrap();
    assert!(why.contains("`countersign recover`") && keys() == 0, "{why}");
    let opened = Installation::open_to_recover(config.clone(), render).await.unwrap();
    let gateway = &opened.production;
    assert!(gateway.must_be_whole().is_err() && keys() == 0);
    let repeats = gateway.may_be_twice(gateway.forgotten().await.unwrap());
    assert!(!repeats.is_empty() && repeats.iter().all(|it| it.why == [Why::KeyLost]), "{repeats:?}");
    gateway.begin_anew().await.unwrap();
    drop(opened);
    let opened = Installation::open(config, render).await.unwrap();
    assert!(opened.production.must_be_whole().is_ok() && keys() == 1);
}

/// The files of what was signed of the log.
fn marks(house: &House) -> Vec<PathBuf> {
    let folder = house.path("data/marks/production/default");
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Another gateway on the same store, here a copy of house and store, signed more of the log than this store has.
async fn signed_by_another(house: &House) -> Vec<PathBuf> {
    let mut other = house.copy().await;
    other.installation.start();
    bundle(&other, &paid(&other, "elsewhere").await).await;
    let files = std::fs::read_dir(other.config.data_dir.join("marks/production/default")).unwrap();
    files.map(|entry| entry.unwrap().path()).map(|file| copied(&file, house)).collect()
}

/// Its file in the folder of the house, under its name.
fn copied(file: &Path, house: &House) -> PathBuf {
    let here = house.path("data/marks/production/default").join(file.file_name().unwrap());
    std::fs::copy(file, &here).unwrap();
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_gateway_signed_counts_for_all_that_have_its_mark_in_their_folder() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let mine = checkpoint(&house);
    signed_by_another(&house).await;
    // One that runs finds it when it is to sign more.
    let said = house.send("more", &house.payment("more", "10.00")).await;
    assert!(said.is_ok() || said.unwrap_err().code == Code::Unavailable);
    until(|| !house.gateway().gaps().is_empty()).await;
    assert_eq!(checkpoint(&house), mine);
    // And one that starts before it takes anything on.
    let house = house.restart().await;
    let gaps = house.gateway().gaps();
    assert!(gaps.len() == 1 && gaps[0].signed > mine.size, "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_mark_that_is_put_back_hides_no_newer_one() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    let old: Vec<(PathBuf, Vec<u8>)> =
        marks(&house).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
    bundle(&house, &paid(&house, "lost").await).await;
    let signed = checkpoint(&house);
    let house = house.reopened_after(|| ()).await;
    // Whoever copies a whole backup over the folder copies the old marks, too.
    for (file, bytes) in old {
        std::fs::write(file, bytes).unwrap();
    }
    let house = put_back(house, &backup).await;
    assert_eq!(house.gateway().gaps()[0].signed, signed.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_that_an_earlier_version_kept_beside_the_keys_counts() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    bundle(&house, &paid(&house, "lost").await).await;
    let signed = checkpoint(&house);
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    let house = house.reopened_after(|| ()).await;
    std::fs::remove_dir_all(house.path("data/marks")).unwrap();
    let earlier = house.path("data/keys/production/log-default.checkpoint");
    std::fs::write(&earlier, note).unwrap();
    let house = put_back(house, &backup).await;
    assert_eq!(house.gateway().gaps()[0].signed, signed.size);
    assert!(!earlier.exists() && marks(&house).len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_behind_is_not_written_to_by_its_start() {
    let house = running().await;
    let operator = house.operator.clone();
    let freeze = countersign_gateway::FreezeScope::Tenant.into();
    house.gateway().freeze(&operator, freeze).await.unwrap();
    // Somebody takes the freeze out of the store: it is put into force again where the store is whole.
    house.store().execute("DELETE FROM freeze", []).unwrap();
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    let logged =
        |house: &House| house.gateway().log_checkpoint(&house.operator).map(|_| checkpoint(house).size);
    until(|| logged(&house).is_ok()).await;
    let size = checkpoint(&house).size;
    let ask = house.mandate_ask("1.00", 4_102_444_800);
    house.gateway().issue_mandate(&operator, ask).await.unwrap();
    until(|| checkpoint(&house).size > size).await;
    let house = put_back(house, &backup).await;
    assert!(!house.gateway().gaps().is_empty());
    let freezes: i64 = house.store().query_row("SELECT count(*) FROM freeze", [], |row| row.get(0)).unwrap();
    assert_eq!(freezes, 0);
}

pub(crate) async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that");
}

/// Somebody who is asked to cosign, and answers as a test has it: to a path and a body with a status and a text.
pub(crate) struct FakeWitness {
    address: String,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl FakeWitness {
    pub(crate) fn answering(answer: impl Fn(&str, &str) -> (u16, String) + Send + 'static) -> FakeWitness {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = serve(stream, &answer, &heard);
            }
        });
        FakeWitness { address, asked }
    }

    pub(crate) fn configured(&self, key: &Verifier, config: &mut countersign_gateway::Config) {
        config.egress.allow.push(self.address.clone());
        config.egress.plain_http.push(self.address.clone());
        let url = format!("http://{}", self.address);
        config.log.witnesses.push(countersign_gateway::config::Witness { url, key: key.to_string() });
    }

    /// How often it was asked what it saw.
    pub(crate) fn asked_to_show(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|(path, _)| path == "/seen-checkpoint").count()
    }

    pub(crate) fn asked_to_cosign(&self) -> Vec<AddCheckpoint> {
        let asked = self.asked.lock().unwrap();
        let offers = asked.iter().filter(|(path, _)| path == "/add-checkpoint");
        offers.map(|(_, body)| AddCheckpoint::parse(body).unwrap()).collect()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&str, &str) -> (u16, String),
    heard: &Mutex<Vec<(String, String)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    let (status, text) = answer(&path, &body);
    heard.lock().unwrap().push((path, body));
    let length = text.len();
    write!(&stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}")
}

/// The line of a witness that cosigns whatever it is asked to.
pub(crate) fn cosigned(signer: &Signer, name: &str, body: &str) -> (u16, String) {
    let note = AddCheckpoint::parse(body).unwrap().note;
    let now = now_seconds();
    (200, format!("{}\n", signer.cosign(name, &note, now).unwrap()))
}

pub(crate) fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn valid(house: &House, bundle: &Bundle, witnesses: Vec<Verifier>, need: usize) -> Verdict {
    let jwks = Jwks::parse(house.gateway().jwks().as_bytes()).unwrap();
    let pin =
        Pin::new(house.gateway().issuer(), &jwks).and_log(key(house)).witnessed(witnesses, need).unwrap();
    let trust =
        Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(&pin, &bundle.jwks) };
    receipt::verify(&bundle.receipt, &trust).verdict
}

pub(crate) async fn bundle_cosigned_by(house: &House, receipt: &str, witness: &Verifier) -> Bundle {
    for _ in 0..2000 {
        let found = bundle(house, receipt).await;
        if matches!(found.proof.note.signed_by(witness), Ok(Some(_))) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{}` never cosigned it", witness.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_writes_in_other_names_spoils_nothing() {
    let signer = Signer::generate().unwrap();
    let witness = signer.witness("w.example").unwrap();
    let lying = FakeWitness::answering(move |path, body| match path {
        "/add-checkpoint" => {
            let note = AddCheckpoint::parse(body).unwrap().note.to_string();
            let log = note.lines().last().unwrap();
            let forged = log.replace(&log[log.len() - 40..log.len() - 36], "AAAA");
            let junk: String = (0..63).map(|n| cosigned(&signer, &format!("nobody-{n}"), body).1).collect();
            (200, format!("{forged}\n{junk}{}", cosigned(&signer, "w.example", body).1))
        }
        _ => (404, String::new()),
    });
    let mut house = House::with(|config| lying.configured(&witness, config)).await;
    house.installation.start();
    let receipt = paid(&house, "a").await;
    let shown = bundle_cosigned_by(&house, &receipt, &witness).await;
    assert_eq!(valid(&house, &shown, vec![witness.clone()], 1), Verdict::Valid);
    checkpoint(&house);
    assert_eq!(shown.proof.note.to_string().lines().filter(|line| line.starts_with('\u{2014}')).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_witness_away_the_other_is_not_asked_again_and_what_it_said_outlives_a_restart() {
    let (here, away) = (Signer::generate().unwrap(), Signer::generate().unwrap());
    let (key_here, key_away) = (here.witness("here.example").unwrap(), away.witness("away.example").unwrap());
    let at_here = FakeWitness::answering(move |path, body| match path {
        "/add-checkpoint" => cosigned(&here, "here.example", body),
        _ => (404, String::new()),
    });
    let at_away = FakeWitness::answering(|_, _| (500, String::new()));
    let mut house = House::with(|config| {
        at_here.configured(&key_here, config);
        at_away.configured(&key_away, config);
    })
    .await;
    house.installation.start();
    let receipt = paid(&house, "a").await;
    bundle_cosigned_by(&house, &receipt, &key_here).await;
    let size = checkpoint(&house).size;
    let tries = |witness: &FakeWitness| {
        witness
            .asked_to_cosign()
            .iter()
            .filter(|it| it.note.to_string().lines().nth(1) == Some(&size.to_string()))
            .count()
    };
    until(|| tries(&at_away) >= 2).await;
    assert_eq!(tries(&at_here), 1);
    // Whoever comes back after it finds the note as it was.
    let house = house.restart().await;
    let shown = bundle(&house, &receipt).await;
    assert_eq!(valid(&house, &shown, vec![key_here, key_away], 1), Verdict::Valid);
    assert_eq!(tries(&at_here), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_shows_what_we_signed_stops_a_store_without_it_and_one_that_only_says_so_does_not() {
    let signer = Signer::generate().unwrap();
    let witness = signer.witness("w.example").unwrap();
    let seen: Arc<Mutex<Option<String>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let fake = FakeWitness::answering(move |path, _| match path {
        "/add-checkpoint" => (409, "1000000\n".to_owned()),
        _ => kept.lock().unwrap().clone().map_or((404, String::new()), |note| (200, note)),
    });
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    bundle(&house, &paid(&house, "lost").await).await;
    let signed = checkpoint(&house);
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    until(|| fake.asked_to_cosign().len() > 1).await;
    assert_eq!(house.gateway().gaps(), [], "what it says it cannot show");
    // Store and marks are put back, and nothing here knows better.
    let house = house.reopened_after(|| ()).await;
    std::fs::remove_dir_all(house.path("data/marks")).unwrap();
    let house = put_back(house, &backup).await;
    assert_eq!(house.gateway().gaps(), []);
    // What somebody else signed proves nothing.
    let forged = Signer::generate().unwrap().sign(&signed).unwrap();
    *seen.lock().unwrap() = Some(forged.to_string());
    let house = house.restart().await;
    assert_eq!(house.gateway().gaps(), []);
    *seen.lock().unwrap() = Some(note);
    let house = house.restart().await;
    let gaps = house.gateway().gaps();
    assert_eq!((gaps.len(), gaps[0].signed), (1, signed.size));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_says_how_much_was_signed_and_no_witness_is_heard_nothing_is_taken_on() {
    let signer = Signer::generate().unwrap();
    let witness = signer.witness("w.example").unwrap();
    let nothing = (404, format!("{NOTHING_SHOWN}\n"));
    let says = Arc::new(Mutex::new(nothing.clone()));
    let (said, seen) = (Arc::clone(&says), nothing.clone());
    let fake = FakeWitness::answering(move |path, body| match (path, said.lock().unwrap().clone()) {
        ("/add-checkpoint", says) if says == seen => cosigned(&signer, "w.example", body),
        ("/add-checkpoint", _) => (409, "1000000\n".to_owned()),
        (_, says) => says,
    });
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    // What was signed is known here, whoever is away.
    *says.lock().unwrap() = (502, String::new());
    let house = house.restart().await;
    house.gateway().must_be_whole().unwrap();
    let mut house = house.reopened_after(|| ()).await;
    std::fs::remove_dir_all(house.path("data/marks")).unwrap();
    // Whatever stands before a witness that is away, and one of another kind, which shows nothing to anybody.
    for away in [(502, ""), (200, "<html>back soon</html>"), (404, ""), (404, "no such page"), (403, "")] {
        *says.lock().unwrap() = (away.0, away.1.to_owned());
        house = house.restart().await;
        let refused = house.gateway().must_be_whole().unwrap_err();
        assert!(refused.message.contains("no witness has said"), "{away:?}: {refused}");
        assert!(house.gateway().is_unheard() && house.gateway().ready().is_err());
    }
    // One that has seen nothing of it says so, and cosigns it.
    *says.lock().unwrap() = nothing;
    let house = house.restart().await;
    house.gateway().must_be_whole().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_keys_compromise_the_proof_shows_that_the_log_tells_of_it_behind_the_receipt() {
    let house = running().await;
    let receipt = paid(&house, "before").await;
    let before = bundle(&house, &receipt).await;
    let document = std::str::from_utf8(&before.receipt).unwrap().to_owned();
    let document = Document::parse(&document).unwrap();
    // Others have had it for less time than the receipt is old.
    let at = receipt::Timestamp::from_unix_millis(document.created.unix_millis() + 1);
    until(|| receipt::Timestamp::from_unix_millis(now_seconds() * 1000) > at).await;
    house
        .gateway()
        .compromise_signing_key(&house.admin, &document.kid, at.as_str().to_owned())
        .await
        .unwrap();
    let again = house.restart().await;
    let mut house = again;
    house.installation.start();
    let mut shown = bundle(&house, &receipt).await;
    for _ in 0..2000 {
        if shown.proof.compromise.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        shown = bundle(&house, &receipt).await;
    }
    assert_eq!(valid(&house, &shown, Vec::new(), 0), Verdict::Valid, "{shown:?}");
    let told = shown.proof.compromise.clone().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&told.record).unwrap();
    assert_eq!(
        record,
        serde_json::json!({"at": at.as_str(), "kid": &*document.kid}),
        "nobody is told who said so"
    );
    // Without it nothing proves when the receipt was made, and what is made from then on has another key.
    let bare = Bundle { proof: Proof { compromise: None, ..shown.proof.clone() }, ..shown };
    assert!(matches!(valid(&house, &bare, Vec::new(), 0), Verdict::TimeUnproven { .. }));
    let after = bundle(&house, &paid(&house, "after").await).await;
    assert_eq!(after.proof.compromise, None);
    assert_eq!(valid(&house, &after, Vec::new(), 0), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_path_that_can_be_counted_is_of_no_log() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    for path in ["tile/0/x072/x057/x594/x037/x927/935", "tile/entries/x072/x057/x594/x037/x927/935"] {
        let refused = house.gateway().log_resource(&house.operator, path).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_receipt_outlives_its_tenants_configuration() {
    let mut house =
        House::with(|config| config.tenants = vec!["default".to_owned(), "other".to_owned()]).await;
    let said = house.said("a", &house.payment("a", "10.00")).await;
    let address = said.body["short"].as_str().unwrap().to_owned();
    assert!(house.gateway().receipt_by_address(&address).await.unwrap().log.is_some());
    house.config.tenants = vec!["other".to_owned()];
    let house = house.restart().await;
    let shown = house.gateway().receipt_by_address(&address).await.unwrap();
    assert_eq!(shown.log, None);
}

#[tokio::test]
async fn no_tenant_is_called_what_logs_that_begin_anew_are() {
    let mut house = House::new().await;
    house.config.tenants = vec!["default".to_owned(), "epoch-2".to_owned()];
    let why = house.reopened().await.err().unwrap();
    assert!(why.contains("`epoch-2` is what logs that begin anew are called"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_put_back_under_a_running_gateway_stops_it() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    // Somebody else took leaves out of it.
    house.store().execute_batch("UPDATE log SET size = size - 1").unwrap();
    for _ in 0..2000 {
        if !house.gateway().gaps().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = house.send("after", &house.payment("after", "10.00")).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_leaves_are_gone_is_behind_and_stops_what_runs() {
    let behind = |house: House| async move {
        for number in 0..2000 {
            if !house.gateway().gaps().is_empty() {
                break;
            }
            // Something to be logged, as long as it is taken on.
            if number % 100 == 0 {
                let key = format!("more-{number}");
                let _ = house.send(&key, &house.payment(&key, "10.00")).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let refused = house.send("after", &house.payment("after", "10.00")).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
    };
    // Under a gateway that has what it grows them on in memory, and under one that has to read it first.
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    house.store().execute_batch("DELETE FROM log_leaf").unwrap();
    behind(house).await;
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let mut house = house.restart().await;
    house.store().execute_batch("DELETE FROM log_leaf").unwrap();
    house.installation.start();
    behind(house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_another_key_than_the_stores_log_does_not_open() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    std::fs::remove_file(house.path("data/keys/production/log.pkcs8")).unwrap();
    std::fs::remove_dir_all(house.path("data/marks")).unwrap();
    let why = house.reopened().await.err().unwrap();
    assert!(why.contains("is not the key that the log of tenant `default` is signed with"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_called_as_configured_and_keeps_its_name() {
    let named = |origin: &'static str| {
        move |config: &mut countersign_gateway::Config| config.log.origin = Some(origin.to_owned())
    };
    let mut house = House::with(named("logs.example/ours")).await;
    assert_eq!(key(&house).name(), "logs.example/ours/default");
    named("logs.example/other")(&mut house.config);
    let why = house.reopened().await.err().unwrap();
    assert!(why.contains("is called `logs.example/ours/default` already"), "{why}");
}

/// The house with another store under it, as a restore of the database alone leaves it.
pub(crate) async fn put_back(house: House, backup: &std::path::Path) -> House {
    let (store, backup) = (house.path("data/production.db"), backup.to_owned());
    house
        .reopened_after(move || {
            for end in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{end}", store.display()));
            }
            // Whoever still has the old file open keeps that.
            std::fs::remove_file(&store).unwrap();
            std::fs::copy(&backup, &store).unwrap();
        })
        .await
}
