//! Several gateways on one database: what must not happen twice does not, and none waits for what it does not share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, Tenant};
use common::postgres::{Server, asked, binaries, server, sql};
use common::*;
use ledger::{
    Access, Admission, Admitted, Basis, Broken, By, Error, Hold, Ledger, Notice, Obstacle, Outbox, Postgres,
    Scope, Settlement, State, event_of,
};

/// So many gateways on a new database.
fn gateways(count: usize) -> Option<(String, Vec<Postgres>)> {
    let url = server()?.database();
    let open = |number: usize| {
        let (replica, chain) = (format!("replica-{number}"), format!("chain-{number}"));
        Postgres::open(Access::new(&url, &replica, &chain, NOW)).unwrap()
    };
    let gateways = (1..=count).map(open).collect();
    Some((url, gateways))
}

/// Does something at once, so many times, each time at the next gateway.
fn at_once<T: Send>(
    gateways: &[Postgres],
    count: usize,
    deed: impl Fn(&Postgres, usize) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let deed = &deed;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || deed(&gateways[number % gateways.len()], number)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn is_new(admitted: &Admitted) -> bool {
    matches!(admitted, Admitted::New { .. })
}

fn ids(ledger: &dyn Ledger) -> BTreeSet<ActionId> {
    let page = wait(ledger.actions(&Tenant::default(), Default::default(), None, 1000)).unwrap();
    page.rows.into_iter().map(|stored| stored.id).collect()
}

/// Every chain holds, and every gateway says so.
fn holds(gateways: &[Postgres]) {
    for gateway in gateways {
        wait(gateway.verify()).unwrap();
    }
}

#[test]
fn one_key_is_one_action_wherever_it_is_sent() {
    let Some((_, gateways)) = gateways(3) else { return };
    for round in 0..5 {
        let key = format!("k-{round}");
        let made = at_once(&gateways, 24, |gateway, _| {
            let admission = admission(&key);
            (admission.intent.id, wait(gateway.admit(admission)).unwrap())
        });
        let new: Vec<ActionId> = made.iter().filter(|(_, it)| is_new(it)).map(|(id, _)| *id).collect();
        assert_eq!(new.len(), 1, "{made:?}");
        for (_, admitted) in &made {
            if let Admitted::Existing(existing) = admitted {
                assert_eq!((existing.id, existing.same_request), (new[0], true));
            }
        }
    }
    assert_eq!(ids(&gateways[0]).len(), 5);
    holds(&gateways);
}

#[test]
fn a_key_of_what_was_refused_an_admission_is_free_for_the_next() {
    let Some((_, gateways)) = gateways(2) else { return };
    let refused = wait(gateways[0].admit(payment("k", 1001, &["m"]))).unwrap();
    assert!(matches!(refused, Admitted::Refused(Obstacle::CapExceeded { .. })));
    assert!(is_new(&wait(gateways[1].admit(payment("k", 1000, &["m"]))).unwrap()));
    let again = wait(gateways[0].admit(payment("k", 1000, &["m"]))).unwrap();
    assert!(matches!(again, Admitted::Existing(_)));
}

#[test]
fn one_effect_happens_once_under_however_many_keys() {
    let Some((_, gateways)) = gateways(3) else { return };
    for round in 0..5_u8 {
        let made = at_once(&gateways, 24, |gateway, number| {
            let admission = Admission { effect: effect(round), ..admission(&format!("k-{round}-{number}")) };
            wait(gateway.admit(admission)).unwrap()
        });
        assert_eq!(made.iter().filter(|it| is_new(it)).count(), 1);
        let refused = |it: &&Admitted| matches!(it, Admitted::Refused(Obstacle::Duplicate(_)));
        assert_eq!(made.iter().filter(refused).count(), 23);
    }
    holds(&gateways);
}

#[test]
fn what_one_mandate_has_is_spent_once_by_all_of_them() {
    let Some((_, gateways)) = gateways(3) else { return };
    let made = at_once(&gateways, 60, |gateway, number| {
        wait(gateway.admit(payment(&format!("k-{number}"), 30, &["hot", "root"]))).unwrap()
    });
    // 33 of 30 are within the cap of 1000.
    assert_eq!(made.iter().filter(|it| is_new(it)).count(), 33);
    for gateway in &gateways {
        assert_eq!((spent(gateway, "hot"), spent(gateway, "root")), (990, 990));
    }
    holds(&gateways);
}

#[test]
fn so_many_wait_for_people_and_no_more_wherever_they_came_in() {
    let Some((_, gateways)) = gateways(3) else { return };
    let made = at_once(&gateways, 24, |gateway, number| {
        let hold = Hold { until_ms: NOW + 1000, needed: 1, most: 4 };
        wait(gateway.admit(holding(admission(&format!("k-{number}")), hold))).unwrap()
    });
    assert_eq!(made.iter().filter(|it| is_new(it)).count(), 4);
}

#[test]
fn a_revocation_at_one_is_honoured_by_all_from_its_acknowledgement_on() {
    let Some((_, gateways)) = gateways(3) else { return };
    let mut issued = mandate_of("m");
    issued.chain.clear();
    wait(gateways[0].issue(issued, event("mandate_issued"))).unwrap();
    for (number, gateway) in gateways.iter().enumerate() {
        assert!(is_new(&wait(gateway.admit(payment(&format!("before-{number}"), 1, &["m"]))).unwrap()));
    }
    wait(gateways[1].revoke(&Tenant::default(), "m", event("mandate_revoked"))).unwrap();
    for (number, gateway) in gateways.iter().enumerate() {
        let after = wait(gateway.admit(payment(&format!("after-{number}"), 1, &["m"]))).unwrap();
        assert!(matches!(after, Admitted::Refused(Obstacle::Revoked { .. })), "{after:?}");
    }
}

#[test]
fn a_freeze_at_one_stops_all_and_a_thaw_ends_it_for_all() {
    let Some((_, gateways)) = gateways(2) else { return };
    wait(gateways[0].freeze(freeze(Scope::All), event("frozen"))).unwrap();
    let stopped = wait(gateways[1].admit(admission("k"))).unwrap();
    assert_eq!(stopped, Admitted::Refused(Obstacle::Frozen(Scope::All)));
    wait(gateways[1].thaw(Scope::All, event("thawed"))).unwrap();
    assert!(is_new(&wait(gateways[0].admit(admission("k"))).unwrap()));
}

#[test]
fn a_credential_that_ended_at_one_opens_nothing_at_the_others() {
    let Some((_, gateways)) = gateways(2) else { return };
    let key = ledger::ApiKey {
        hash: [9; 32],
        id: "k-1".into(),
        tenant: Tenant::default(),
        subject: subject(),
        role: "agent".into(),
        default_mandate: None,
        created_ms: NOW,
        created_by: None,
        revoked_ms: None,
    };
    wait(gateways[0].add_key(key.clone(), event("key_added"))).unwrap();
    assert!(wait(gateways[1].key(&[9; 32])).unwrap().is_some());
    let again = wait(gateways[1].add_key(key, event("key_added")));
    assert!(matches!(again, Err(Error::Exists(_))));
    wait(gateways[1].revoke_key(&Tenant::default(), "k-1", event("key_revoked"))).unwrap();
    assert!(wait(gateways[0].key(&[9; 32])).unwrap().is_none());
}

#[test]
fn of_two_that_settle_at_once_one_comes_late_wherever() {
    let Some((_, gateways)) = gateways(2) else { return };
    for round in 0..10 {
        let id = admitted(&gateways[0], admission(&format!("k-{round}")));
        let told = at_once(&gateways, 2, |gateway, number| {
            wait(gateway.settle(settlement(id, State::Executed, &format!("{round}-{number}"))))
        });
        assert_eq!(told.iter().filter(|it| it.is_ok()).count(), 1, "{told:?}");
    }
    holds(&gateways);
}

fn heir(id: ActionId, token: u32, at_ms: i64) -> Settlement {
    let mut taken = settlement(id, State::InDoubt, "doubt");
    taken.by = By::Heir(token);
    taken.outcome.at_ms = at_ms;
    taken
}

#[test]
fn what_another_has_in_hand_is_taken_over_after_its_lease_and_its_late_word_is_fenced_off() {
    let Some((_, gateways)) = gateways(2) else { return };
    let id = admitted(&gateways[0], admission("k"));
    let early = wait(gateways[1].settle(heir(id, 1, NOW + 59_999)));
    assert!(matches!(early, Err(Error::Leased(_))), "{early:?}");
    wait(gateways[1].settle(heir(id, 1, NOW + 60_000))).unwrap();
    let late = wait(gateways[0].settle(settlement(id, State::Executed, "late")));
    assert!(matches!(late, Err(Error::Fenced(_))), "{late:?}");
    let mut word = settlement(id, State::Executed, "found");
    word.by = By::Holder(2);
    wait(gateways[1].settle(word)).unwrap();
    holds(&gateways);
}

#[test]
fn what_one_that_is_gone_had_in_hand_is_taken_over_at_once() {
    let Some((_, mut gateways)) = gateways(2) else { return };
    let id = admitted(&gateways[0], admission("k"));
    drop(gateways.remove(0));
    wait(gateways[0].settle(heir(id, 1, NOW + 20))).unwrap();
    holds(&gateways);
}

#[test]
fn what_waits_for_its_next_attempt_is_sent_by_one_of_them() {
    let Some((_, gateways)) = gateways(3) else { return };
    let id = admitted(&gateways[0], admission("k"));
    wait(gateways[0].defer(deferral(id, 1, NOW + 100))).unwrap();
    let listed = |at_ms| gateways.iter().flat_map(move |it| wait(it.due(at_ms, None, 10)).unwrap().rows);
    let due: Vec<_> = listed(NOW + 100).collect();
    assert_eq!(due.len(), 1, "it is the turn of one of them");
    assert_eq!(listed(NOW + 30_100).count(), 3, "and of all where that one lets it lie");
    let made = at_once(&gateways, 6, |gateway, _| {
        send_again(gateway, id, Basis::Sent { token: due[0].token }, admission("k"))
    });
    assert_eq!(made.iter().filter(|it| is_new(it)).count(), 1);
    holds(&gateways);
}

#[test]
fn one_that_was_taken_for_gone_goes_on_as_another_and_its_chains_hold() {
    let Some(server) = server() else { return };
    let url = server.database();
    let silent = Access { silence: Duration::from_secs(3600), ..access(&url) };
    let gateway = Postgres::open(silent).unwrap();
    admitted(&gateway, admission("before"));
    sql(&url, "UPDATE replica SET ended = TRUE");
    admitted(&gateway, admission("after"));
    let chains = asked(&url, "SELECT chain, ended FROM replica ORDER BY number").unwrap();
    let chains: Vec<_> =
        chains.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect();
    assert_eq!(chains, [("chain-1".to_owned(), "t".to_owned()), ("chain-1.2".to_owned(), "f".to_owned())]);
    assert_eq!(wait(gateway.verify()).unwrap().entries, 4);
}

#[test]
fn whoever_starts_after_an_outage_takes_nobody_for_gone_who_was_there_before() {
    let Some(server) = server() else { return };
    let url = server.database();
    let _there = Postgres::open(access(&url)).unwrap();
    sql(&url, "UPDATE replica SET beat = beat - interval '1 hour'");
    let _newcomer = Postgres::open(Access::new(&url, "replica-2", "chain-2", NOW + 100)).unwrap();
    let ended = asked(&url, "SELECT count(*) FROM replica WHERE ended").unwrap();
    assert_eq!(ended[0][0].as_deref(), Some("0"));
}

#[test]
fn a_restart_forgets_nothing_and_its_chain_follows_on_the_one_before() {
    let Some(server) = server() else { return };
    let url = server.database();
    let (first, waiting) = {
        let gateway = Postgres::open(access(&url)).unwrap();
        let first = admitted(&gateway, Admission { effect: effect(1), ..payment("k", 10, &["m"]) });
        wait(gateway.settle(settlement(first, State::Executed, "a"))).unwrap();
        let waiting = held(&gateway, admission("held"), 2);
        wait(gateway.approve(approval(waiting, "alice"))).unwrap();
        (first, waiting)
    };
    let gateway = Postgres::open(Access::new(&url, "replica-1", "chain-2", NOW + 100)).unwrap();
    let again = wait(gateway.admit(payment("k", 10, &["m"]))).unwrap();
    let Admitted::Existing(existing) = again else { panic!("{again:?}") };
    assert_eq!((existing.id, existing.state, existing.altered), (first, State::Executed, false));
    assert_eq!(existing.reply.unwrap().body, b"reply a");
    let same = Admission { effect: effect(1), ..admission("other") };
    assert!(matches!(wait(gateway.admit(same)).unwrap(), Admitted::Refused(Obstacle::Duplicate(_))));
    let twice = wait(gateway.approve(approval(waiting, "alice")));
    assert!(matches!(twice, Err(Error::Exists(_))));
    assert!(wait(gateway.approve(approval(waiting, "bob"))).unwrap().is_enough());
    assert_eq!(spent(&gateway, "m"), 10);
    assert!(wait(gateway.address("short-a")).unwrap().is_some());
    let verified = wait(gateway.verify()).unwrap();
    assert_eq!((verified.entries, verified.receipts, verified.approvals), (7, 1, 2));
}

#[test]
fn rows_lie_in_the_partitions_of_their_months_and_keys_are_unique_across_them() {
    let Some((url, gateways)) = gateways(1) else { return };
    let late = {
        let mut late = admission("late");
        // The month after.
        late.intent.id = ActionId::new(NOW as u64 + 31 * 24 * 3_600_000, [7; 10]);
        admitted(&gateways[0], late)
    };
    admitted(&gateways[0], admission("early"));
    let places = asked(&url, "SELECT key, tableoid::regclass FROM action ORDER BY key").unwrap();
    let places: Vec<_> = places.into_iter().map(|row| row[1].clone().unwrap()).collect();
    assert_eq!(places, ["action_2026_04", "action_2026_05"]);
    let strays = asked(&url, "SELECT count(*) FROM entry_default").unwrap();
    assert_eq!(strays[0][0].as_deref(), Some("0"));
    let again = wait(gateways[0].admit(admission("late"))).unwrap();
    assert!(matches!(again, Admitted::Existing(existing) if existing.id == late));
}

#[test]
fn what_is_asked_together_is_answered_to_each_and_what_one_cannot_be_told_keeps_nothing_from_the_others() {
    let Some((url, gateways)) = gateways(1) else { return };
    let effects: Vec<_> = (0..16_u8).map(|number| effect(number).unwrap()).collect();
    let first: Vec<ActionId> = (0..16_u8)
        .map(|number| {
            let paid = payment(&format!("k-{number}"), i64::from(number) + 1, &[&format!("m-{number}")]);
            admitted(&gateways[0], Admission { effect: effect(number), ..paid })
        })
        .collect();
    sql(&url, "UPDATE fate SET state = 99 WHERE id = (SELECT id FROM action WHERE key = 'k-7')");
    let told = at_once(&gateways, 32, |gateway, number| {
        let (tenant, subject) = (Tenant::default(), subject());
        let mandates: [Arc<str>; 2] = [format!("m-{}", number % 16).into(), "new".into()];
        let key = if number < 16 { format!("k-{number}") } else { "free".to_owned() };
        let effect = Some(&effects[number % 16]);
        let asked =
            ledger::FactsQuery { key: Some(&key), mandates: &mandates, effect, ..query(&tenant, &subject) };
        wait(gateway.facts(asked))
    });
    for (number, told) in told.into_iter().enumerate() {
        if number == 7 {
            assert!(matches!(told, Err(Error::Corrupt(_))), "{told:?}");
            continue;
        }
        let facts = told.unwrap();
        if number < 16 {
            assert_eq!(facts.existing.unwrap().id, first[number]);
            continue;
        }
        let number = number % 16;
        assert!(facts.existing.is_none());
        let spent: Vec<i64> = facts.accounts.iter().map(|account| account.spent_minor).collect();
        assert_eq!(spent, [number as i64 + 1, 0]);
        assert_eq!(facts.accounts[1].jti, "new");
        assert_eq!(facts.earlier.map(|it| it.id), Some(first[number]));
    }
}

/// What is wrong, told with what.
fn found(gateway: &Postgres) -> Vec<Broken> {
    wait(gateway.inspect(None)).unwrap().findings.into_iter().map(|it| it.broken).collect()
}

#[test]
fn what_was_altered_in_the_database_is_found_and_named() {
    let cases = [
        ("UPDATE entry SET bytes = set_byte(bytes, 20, 48) WHERE action IS NOT NULL", Broken::Hash),
        ("DELETE FROM entry WHERE row = (SELECT max(row) FROM entry)", Broken::Missing),
        ("UPDATE outcome SET document = 'x' WHERE receipt_id = 'receipt-a'", Broken::Receipt),
        ("UPDATE outcome SET payload = 'x' WHERE receipt_id = 'receipt-a'", Broken::Altered),
        ("DELETE FROM outcome WHERE receipt_id = 'receipt-a'", Broken::NoReceipt),
        ("UPDATE fate SET state = 5 WHERE state = 4", Broken::Fate),
        ("UPDATE approval SET record = 'x'", Broken::Approval),
        ("DELETE FROM approval", Broken::Approval),
        ("DELETE FROM action WHERE key = 'k'", Broken::NoAction),
        ("UPDATE entry SET record = 'x' WHERE record IS NOT NULL", Broken::Record),
        (
            "UPDATE action SET payload = '', erased = 1; UPDATE approval SET record = '';
             UPDATE outcome SET payload = '', body = CASE WHEN body IS NOT NULL THEN ''::bytea END",
            Broken::Erased,
        ),
        ("UPDATE fate SET moved = (SELECT max(row) FROM entry) WHERE state = 4", Broken::Fate),
        ("INSERT INTO passkey VALUES ('p', 'default', 'x', (SELECT min(row) FROM entry))", Broken::Passkey),
    ];
    for (forgery, broken) in cases {
        let Some((url, gateways)) = gateways(1) else { return };
        let gateway = &gateways[0];
        let id = admitted(gateway, admission("k"));
        wait(gateway.settle(settlement(id, State::Executed, "a"))).unwrap();
        let waiting = held(gateway, admission("held"), 2);
        wait(gateway.approve(approval(waiting, "alice"))).unwrap();
        wait(gateway.record(event("noted"))).unwrap();
        assert_eq!(found(gateway), []);
        sql(&url, forgery);
        assert!(found(gateway).contains(&broken), "{forgery}: {:?}", found(gateway));
        assert!(wait(gateway.verify()).is_err(), "{forgery}");
    }
}

#[test]
fn what_cannot_be_written_does_not_take_the_others_with_it() {
    let Some((_, gateways)) = gateways(1) else { return };
    let fine = at_once(&gateways, 16, |gateway, number| {
        let mut admission = admission(&format!("k-{number}"));
        if number == 7 {
            // No text of a database holds this.
            admission.intent.labels.verb = Some("a\0b".into());
        }
        wait(gateway.admit(admission))
    });
    assert_eq!(fine.iter().filter(|it| it.is_ok()).count(), 15, "{fine:?}");
    assert!(matches!(fine[7], Err(Error::Rejected(_))), "{:?}", fine[7]);
    holds(&gateways);
}

#[test]
fn whoever_reads_along_misses_nothing_and_sees_nothing_twice() {
    let Some((_, gateways)) = gateways(3) else { return };
    wait(gateways[0].give_places(vec!["ops".into()])).unwrap();
    let begin = wait(gateways[0].standing("ops")).unwrap().upto;
    let count = 60;
    let (told, read) = std::thread::scope(|scope| {
        let gateways = &gateways;
        let reader = scope.spawn(move || {
            let (mut after, mut read) = (begin, Vec::new());
            while read.len() < count {
                let page = wait(gateways[0].entries(Some(after), 7)).unwrap();
                after = page.rows.last().map_or(after, |(row, _)| *row);
                read.extend(page.rows.into_iter().filter(|(_, it)| event_of(it) == Some("admitted")));
            }
            read.into_iter().map(|(row, _)| row).collect::<Vec<_>>()
        });
        let told = at_once(gateways, count, |gateway, number| {
            match wait(gateway.admit(admission(&format!("k-{number}")))).unwrap() {
                Admitted::New { entry } => entry,
                other => panic!("{other:?}"),
            }
        });
        (told, reader.join().unwrap())
    });
    assert!(read.is_sorted());
    assert_eq!(read.iter().copied().collect::<BTreeSet<_>>(), told.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(read.len(), count);
}

#[test]
fn a_database_that_goes_away_and_comes_back_is_found_again_and_nothing_is_lost_or_doubled() {
    let Some(binaries) = binaries() else { return };
    let mut server = Server::start(&binaries, &[]);
    let url = server.database();
    let gateway = Arc::new(Postgres::open(access(&url)).unwrap());
    let before = admitted(&*gateway, payment("before", 10, &["m"]));
    server.stop();
    let during = wait(gateway.admit(payment("during", 10, &["m"])));
    assert!(matches!(during, Err(Error::Unavailable(_))), "{during:?}");
    assert!(matches!(gateway.health(), Err(Error::Unavailable(_))));
    server.run_again();
    // The same key until it is answered, as a client does.
    let after = loop {
        match wait(gateway.admit(payment("during", 10, &["m"]))) {
            Err(Error::Unavailable(_)) => std::thread::sleep(Duration::from_millis(20)),
            answer => break answer.unwrap(),
        }
    };
    assert!(matches!(after, Admitted::New { .. } | Admitted::Existing(_)));
    assert_eq!((ids(&*gateway).len(), spent(&*gateway, "m")), (2, 20));
    wait(gateway.settle(settlement(before, State::Executed, "a"))).unwrap();
    wait(gateway.verify()).unwrap();
    gateway.health().unwrap();
}

#[test]
fn connections_that_are_cut_in_the_midst_lose_nothing_that_was_acknowledged_and_double_nothing() {
    let Some((url, gateways)) = gateways(2) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE application_name = 'countersign' AND datname = current_database() ORDER BY random() LIMIT 2";
                sql(&url, cut);
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        let made = at_once(&gateways, 8, |gateway, worker| {
            let mut acknowledged = Vec::new();
            for number in 0..25 {
                let admission = payment(&format!("k-{worker}-{number}"), 1, &["m"]);
                let id = loop {
                    let id = admission.intent.id;
                    match wait(gateway.admit(admission.clone())) {
                        Ok(Admitted::New { .. }) => break id,
                        Ok(Admitted::Existing(existing)) => break existing.id,
                        Ok(other) => panic!("{other:?}"),
                        Err(Error::Unavailable(_) | Error::Busy) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                };
                acknowledged.push(id);
            }
            acknowledged
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        cutter.join().unwrap();
        made.into_iter().flatten().collect::<BTreeSet<_>>()
    });
    assert_eq!(acknowledged.len(), 200);
    let found = loop {
        // The last cut may have been that of the connection that would answer.
        match wait(gateways[0].actions(&Tenant::default(), Default::default(), None, 1000)) {
            Ok(page) => break page.rows.into_iter().map(|it| it.id).collect::<BTreeSet<_>>(),
            Err(Error::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(found, acknowledged);
    assert_eq!(spent(&gateways[1], "m"), 200);
    wait(gateways[1].verify()).unwrap();
}

#[test]
fn a_server_that_may_lose_what_it_acknowledged_is_not_opened() {
    let Some(binaries) = binaries() else { return };
    for (setting, named) in [
        ("fsync=off", "fsync"),
        ("synchronous_commit=off", "synchronous_commit"),
        ("full_page_writes=off", "full_page_writes"),
    ] {
        let server = Server::start(&binaries, &[setting]);
        let refused = Postgres::open(access(&server.url("postgres"))).err().map(|it| it.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains(named)), "{refused:?}");
    }
}

#[test]
fn a_walk_of_a_large_store_takes_longer_than_anybody_else_may() {
    let Some((url, _)) = gateways(1) else { return };
    // As large as one whose passkeys are read for so long, three times in one statement.
    let slow = "ALTER TABLE passkey RENAME TO keys; CREATE VIEW passkey AS SELECT k.* FROM (SELECT pg_sleep(4) OFFSET 0) z
                LEFT JOIN keys k ON TRUE WHERE coalesce(k.tenant, '') <> ''";
    sql(&url, slow);
    let gateway = Postgres::open(Access::new(&url, "replica-2", "chain-2", NOW)).unwrap();
    wait(gateway.verify()).unwrap();
}

/// Takes back what later migrations made, newest first, by which version made it.
const UNDONE: &[(i32, &str)] = &[(2, "DROP TABLE store_copy; DROP TABLE table_copy")];

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date_with_all_it_has() {
    let Some((url, mut gateways)) = gateways(1) else { return };
    let done = admitted(&gateways[0], payment("done", 10, &["m"]));
    wait(gateways[0].settle(settlement(done, State::Executed, "done"))).unwrap();
    let open = admitted(&gateways[0], payment("open", 5, &["m"]));
    drop(gateways.remove(0));
    UNDONE.iter().for_each(|(_, undo)| sql(&url, undo));
    sql(&url, "DELETE FROM refinery_schema_history WHERE version > 1");
    let gateway = Postgres::open(Access::new(&url, "replica-2", "chain-2", NOW)).unwrap();
    assert!(matches!(wait(gateway.admit(payment("done", 10, &["m"]))).unwrap(), Admitted::Existing(_)));
    assert_eq!(spent(&gateway, "m"), 15);
    let unsettled = wait(gateway.unsettled(None, 10)).unwrap().rows;
    assert_eq!(unsettled.into_iter().map(|it| it.id).collect::<Vec<_>>(), [open]);
    wait(gateway.verify()).unwrap();
    let made = asked(&url, "SELECT max(version) FROM refinery_schema_history").unwrap();
    assert_eq!(
        made[0][0].as_deref(),
        Some(&*UNDONE[0].0.to_string()),
        "what each later one made is taken back here"
    );
}

#[test]
fn rows_and_the_entries_that_tell_of_them_are_of_one_moment() {
    let Some((_, gateways)) = gateways(2) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, gateways) = (&stop, &gateways);
        let writer = scope.spawn(move || {
            for number in 0..60 {
                let mut mandate = mandate_of(&format!("m-{number}"));
                mandate.chain.clear();
                wait(gateways[0].issue(mandate, event("mandate_issued"))).unwrap();
                wait(gateways[0].freeze(freeze(Scope::All), event("frozen"))).unwrap();
                wait(gateways[0].thaw(Scope::All, event("thawed"))).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let found = wait(gateways[1].authority(&["mandate_issued", "frozen", "thawed"])).unwrap();
            let told = |event: &str| found.enacted.iter().filter(|it| &*it.event == event).count();
            assert_eq!(found.mandates.len(), told("mandate_issued"));
            assert_eq!(found.freezes.len(), told("frozen") - told("thawed"));
        }
        writer.join().unwrap();
    });
}

#[test]
fn whoever_verifies_while_others_write_finds_nothing_wrong() {
    let Some((_, gateways)) = gateways(2) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, gateways) = (&stop, &gateways);
        let writer = scope.spawn(move || {
            for number in 0..60 {
                let id = admitted(&gateways[0], admission(&format!("k-{number}")));
                wait(gateways[0].settle(settlement(id, State::Executed, &number.to_string()))).unwrap();
                wait(gateways[0].outcomes(&Tenant::default(), id)).unwrap();
                wait(gateways[0].erase(erasure(id))).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(found(&gateways[1]), []);
        }
        writer.join().unwrap();
    });
}

#[test]
fn what_came_of_an_action_is_read_whole_while_more_comes_of_it() {
    let Some((_, gateways)) = gateways(1) else { return };
    let gateway = &gateways[0];
    for number in 0..40 {
        let id = admitted(gateway, admission(&format!("k-{number}")));
        std::thread::scope(|scope| {
            let settled = scope.spawn(move || {
                wait(gateway.settle(settlement(id, State::Executed, &number.to_string()))).unwrap();
            });
            while wait(gateway.outcomes(&Tenant::default(), id)).unwrap().is_empty() {}
            settled.join().unwrap();
        });
    }
}

/// Runs statements in a transaction that stays open for some seconds, beside what is done meanwhile.
fn while_open<T>(url: &str, statements: &str, seconds: f64, at_its_end: &str, deed: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let open = scope.spawn(|| {
            sql(url, &format!("BEGIN; {statements}; SELECT pg_sleep({seconds}); {at_its_end}; COMMIT"))
        });
        let waits =
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        while asked(url, waits).unwrap().is_empty() {}
        let done = deed();
        open.join().unwrap();
        done
    })
}

#[test]
fn a_freeze_is_honoured_whatever_isolation_the_database_gives_by_default() {
    let Some(server) = server() else { return };
    let url = server.database();
    let isolation = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = %L',
                     current_database(), 'repeatable read'); END $$";
    sql(&url, isolation);
    let gateway = Postgres::open(access(&url)).unwrap();
    // It has begun, and waits for whoever freezes.
    let freeze = "INSERT INTO stop VALUES ('all', '', '', FALSE, 0, 'op', 'why')";
    let all = "SELECT number FROM replica FOR UPDATE";
    let stopped = while_open(&url, all, 1.0, freeze, || wait(gateway.admit(admission("k")))).unwrap();
    assert_eq!(stopped, Admitted::Refused(Obstacle::Frozen(Scope::All)));
}

#[test]
fn a_key_that_is_locked_for_long_is_waited_for_and_no_sign_that_the_database_is_gone() {
    let Some((url, gateways)) = gateways(1) else { return };
    let made =
        while_open(&url, "LOCK TABLE claim", 5.0, "SELECT 1", || wait(gateways[0].admit(admission("k"))));
    assert!(is_new(&made.unwrap()));
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// An action that one of them is at, by a lease that runs.
fn under_way(gateway: &Postgres, key: &str) -> ActionId {
    let mut admission = admission(key);
    admission.intent.at_ms = now_ms();
    admission.lease_ms = now_ms() + 60_000;
    admitted(gateway, admission)
}

#[test]
fn a_clock_that_is_ahead_takes_nothing_over_from_whoever_lives() {
    let Some((_, gateways)) = gateways(2) else { return };
    let id = under_way(&gateways[0], "k");
    let early = wait(gateways[1].settle(heir(id, 1, now_ms() + 3_600_000)));
    assert!(matches!(early, Err(Error::Leased(_))), "{early:?}");
    wait(gateways[0].settle(settlement(id, State::Executed, "a"))).unwrap();
}

#[test]
fn whose_clock_is_not_the_databases_writes_nothing_and_says_so() {
    let Some(server) = server() else { return };
    let url = server.database();
    for (clock, how) in [
        ((|| now_ms() + 60_000) as fn() -> i64, "ahead of"),
        ((|| now_ms() - 60_000) as fn() -> i64, "behind"),
    ] {
        let refused = Postgres::open(Access { clock, ..access(&url) }).err().map(|it| it.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains(how)), "{refused:?}");
    }
    let registered = asked(&url, "SELECT count(*) FROM replica").unwrap();
    assert_eq!(registered[0][0].as_deref(), Some("0"), "nor does it keep a place from others");
}

#[test]
fn what_one_is_at_is_nobody_elses_to_look_after_until_it_is_gone() {
    let Some((_, mut gateways)) = gateways(2) else { return };
    let id = under_way(&gateways[0], "k");
    let open = |gateway: &Postgres| {
        wait(gateway.unsettled(None, 10)).unwrap().rows.into_iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(open(&gateways[1]), []);
    drop(gateways.remove(0));
    assert_eq!(open(&gateways[0]), [id]);
}

#[test]
fn a_persons_word_overtakes_nothing_that_another_has_on_its_way() {
    let Some((_, mut gateways)) = gateways(2) else { return };
    // One whose caller waits no longer, and one that is sent once more.
    let (overdue, again) = (under_way(&gateways[0], "a"), under_way(&gateways[0], "b"));
    let doubt = |id, by, name: &str| {
        wait(gateways[0].settle(Settlement { by, ..settlement(id, State::InDoubt, name) }))
    };
    doubt(overdue, By::Caller(1), "a").unwrap();
    doubt(again, By::Holder(1), "b").unwrap();
    let sent = Admission { lease_ms: now_ms() + 60_000, ..admission("b") };
    assert!(is_new(&send_again(&gateways[0], again, Basis::Sent { token: 1 }, sent)));
    let says = |gateway: &Postgres, (id, token), name: &str| {
        let mut word = settlement(id, State::Failed, name);
        (word.by, word.outcome.at_ms) = (By::Person(token), now_ms());
        wait(gateway.settle(word))
    };
    for (it, name) in [((overdue, 1), "c"), ((again, 2), "d")] {
        let early = says(&gateways[1], it, name);
        assert!(matches!(early, Err(Error::Leased(_))), "{early:?}");
    }
    let mut rests = resting(State::Reserved, deferral(overdue, 1, now_ms()));
    (rests.by, rests.at_ms) = (By::Person(1), now_ms());
    assert!(matches!(wait(gateways[1].defer(rests)), Err(Error::Leased(_))));
    assert!(wait(gateways[1].unsettled(None, 10)).unwrap().rows.is_empty(), "nor is it asked after");
    // Whether anything is in flight at its own gateway that knows itself; what is left of one that is gone is free.
    says(&gateways[0], (again, 2), "e").unwrap();
    drop(gateways.remove(0));
    says(&gateways[0], (overdue, 1), "f").unwrap();
    holds(&gateways);
}

#[test]
fn a_persons_word_need_not_wait_for_what_whoever_sent_it_let_go_of() {
    let Some((_, gateways)) = gateways(2) else { return };
    let overdue = under_way(&gateways[0], "a");
    let doubt = Settlement { by: By::Caller(1), ..settlement(overdue, State::InDoubt, "a") };
    wait(gateways[0].settle(doubt)).unwrap();
    let says = || {
        let mut word = settlement(overdue, State::Failed, "b");
        (word.by, word.outcome.at_ms) = (By::Person(1), now_ms());
        wait(gateways[1].settle(word))
    };
    assert!(!wait(gateways[1].let_go(overdue, 1)).unwrap(), "it is not theirs");
    let early = says();
    assert!(matches!(early, Err(Error::Leased(_))), "{early:?}");
    assert!(wait(gateways[0].let_go(overdue, 1)).unwrap());
    assert_eq!(wait(gateways[1].left_open(None, 10)).unwrap().rows.len(), 1);
    says().unwrap();
    holds(&gateways);
}

#[test]
fn what_is_open_is_the_turn_of_one_of_them() {
    let Some((_, gateways)) = gateways(3) else { return };
    let ids: BTreeSet<ActionId> =
        (0..24).map(|number| held(&gateways[0], admission(&format!("k-{number}")), 1)).collect();
    let listed: Vec<ActionId> = gateways
        .iter()
        .flat_map(|it| wait(it.expired(NOW + 29_999, None, 100)).unwrap().rows)
        .map(|it| it.id)
        .collect();
    assert_eq!(listed.len(), ids.len(), "each once");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn what_is_long_open_stays_the_turn_of_one_of_them() {
    let Some((url, gateways)) = gateways(3) else { return };
    let ids: BTreeSet<ActionId> =
        (0..24).map(|number| admitted(&gateways[0], admission(&format!("k-{number}")))).collect();
    // For an hour by now, in which nothing was written of them.
    sql(&url, &format!("UPDATE fate SET state = 3, row = row - {}", 3_600_000_i64 << 12));
    let (first, last) = (now_ms() / 600_000, || now_ms() / 600_000);
    let listed: Vec<ActionId> =
        gateways.iter().flat_map(|it| wait(it.unsettled(None, 100)).unwrap().rows).map(|it| it.id).collect();
    // Unless it was passed on just now.
    if first == last() {
        assert_eq!(listed.len(), ids.len(), "each once");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids);
    }
}

#[test]
fn whoever_recovers_is_told_of_all_that_is_open_though_the_others_seem_to_be_there() {
    let Some((url, mut gateways)) = gateways(3) else { return };
    let mut ids: BTreeSet<ActionId> =
        (0..8).map(|number| under_way(&gateways[0], &format!("sent-{number}"))).collect();
    ids.extend((0..16).map(|number| admitted(&gateways[1], admission(&format!("doubt-{number}")))));
    sql(&url, &format!("UPDATE fate SET state = 3 WHERE until < {}", now_ms()));
    gateways.clear();
    // As in a backup that was made while they ran.
    sql(&url, "UPDATE replica SET ended = FALSE, beat = clock_timestamp() + interval '1 hour'");
    let recovers = Postgres::open(access(&url)).unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = wait(recovers.left_open(after, 7)).unwrap();
        listed.extend(page.rows.into_iter().map(|it| it.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed.len(), ids.len(), "each once");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn a_notice_is_told_by_one_of_them_and_does_not_come_back() {
    let Some((_, gateways)) = gateways(2) else { return };
    for gateway in &gateways {
        wait(gateway.give_places(vec!["ops".into()])).unwrap();
    }
    let entry = wait(gateways[0].standing("ops")).unwrap().upto + 1000;
    let taken = || vec![Notice { entry, action: None, taken_ms: NOW }];
    let due = |gateway: &Postgres| wait(gateway.untold("ops", NOW, 10)).unwrap().len();
    wait(gateways[0].put("ops", entry, taken())).unwrap();
    assert_eq!((due(&gateways[0]), due(&gateways[1])), (1, 0));
    wait(gateways[0].tried("ops", vec![ledger::Tried { entry, again_ms: Some(NOW) }])).unwrap();
    assert_eq!((due(&gateways[1]), due(&gateways[0])), (1, 0), "what came to nothing anybody may try");
    wait(gateways[1].tried("ops", vec![ledger::Tried { entry, again_ms: None }])).unwrap();
    // Whoever had read its place before.
    wait(gateways[0].put("ops", entry, taken())).unwrap();
    assert_eq!((due(&gateways[0]), due(&gateways[1])), (0, 0));
}

#[test]
fn a_destination_that_another_knows_is_not_forgotten_by_who_does_not() {
    let Some((url, gateways)) = gateways(2) else { return };
    wait(gateways[0].give_places(vec!["pager".into()])).unwrap();
    wait(gateways[1].forget_others(vec![])).unwrap();
    wait(gateways[0].standing("pager")).unwrap();
    sql(&url, "UPDATE destination SET seen = seen - interval '2 days'");
    wait(gateways[1].forget_others(vec![])).unwrap();
    assert!(matches!(wait(gateways[0].standing("pager")), Err(Error::Absent(_))));
}

#[test]
fn a_chain_begins_with_its_opening_however_long_it_took_to_write_that() {
    let Some((url, gateways)) = gateways(1) else { return };
    sql(
        &url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         RAISE EXCEPTION 'not now' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER fails BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION fail();
         UPDATE replica SET ended = TRUE",
    );
    assert!(wait(gateways[0].admit(admission("k"))).is_err());
    assert!(gateways[0].health().is_err());
    sql(&url, "DROP TRIGGER fails ON entry");
    assert!(is_new(&wait(gateways[0].admit(admission("k"))).unwrap()));
    assert_eq!(found(&gateways[0]), []);
    gateways[0].health().unwrap();
}

#[test]
fn one_that_finds_no_place_among_the_gateways_is_not_ready() {
    let Some((url, gateways)) = gateways(1) else { return };
    let others =
        "INSERT INTO replica SELECT n + 100, n, 'other', 'other-' || n, 1, NULL, 0, 0, 'infinity', FALSE
                  FROM generate_series(0, 63) n";
    sql(&url, &format!("UPDATE replica SET ended = TRUE; {others}"));
    assert!(wait(gateways[0].admit(admission("k"))).is_err());
    assert!(gateways[0].health().is_err());
    sql(&url, "DELETE FROM replica WHERE name = 'other'");
    assert!(is_new(&wait(gateways[0].admit(admission("k"))).unwrap()));
}

#[test]
fn whether_a_tenant_is_only_observed_all_of_them_are_told_alike() {
    let Some((_, gateways)) = gateways(2) else { return };
    let (tenant, subject) = (Tenant::default(), subject());
    let told = |gateway: &Postgres| wait(gateway.facts(query(&tenant, &subject))).unwrap().observed_ms;
    assert_eq!(told(&gateways[1]), Some(0));
    wait(gateways[0].observe(&tenant, NOW + 1, event("observe_mode"))).unwrap();
    assert_eq!(told(&gateways[1]), Some(NOW + 1));
    wait(gateways[1].observe(&tenant, 0, event("observe_mode"))).unwrap();
    assert_eq!(told(&gateways[0]), Some(0));
}

/// Waits until this holds.
fn until(holds: impl Fn() -> bool) {
    while !holds() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_promise_that_the_server_takes_back_ends_what_is_acknowledged_by_it() {
    let Some(binaries) = binaries() else { return };
    let server = Server::start(&binaries, &[]);
    let url = server.database();
    let gateway = Postgres::open(access(&url)).unwrap();
    let set = |name: &str, value: &str| {
        sql(&url, &format!("ALTER SYSTEM SET {name} = {value}"));
        sql(&url, "SELECT pg_reload_conf()");
    };
    set("synchronous_commit", "off");
    set("full_page_writes", "off");
    until(|| gateway.health().is_err());
    assert!(matches!(wait(gateway.admit(admission("k"))), Err(Error::Unavailable(_))));
    set("full_page_writes", "on");
    set("synchronous_commit", "on");
    until(|| gateway.health().is_ok());
    assert!(is_new(&wait(gateway.admit(admission("k"))).unwrap()));
}

#[test]
fn where_no_commit_comes_to_an_end_everybody_hears_so_and_nothing_is_lost_or_doubled() {
    let Some(binaries) = binaries() else { return };
    let server = Server::start(&binaries, &[]);
    let url = server.database();
    let gateways = [Postgres::open(access(&url)).unwrap()];
    let set = |value: &str| {
        sql(&url, &format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"));
        sql(&url, "SELECT pg_reload_conf()");
    };
    set("nobody");
    let admit =
        |gateway: &Postgres, number: usize| wait(gateway.admit(payment(&format!("k-{number}"), 1, &["m"])));
    let made = at_once(&gateways, 50, admit);
    assert!(made.iter().all(|it| matches!(it, Err(Error::Unavailable(_) | Error::Busy))), "{made:?}");
    assert!(gateways[0].health().is_err());
    set("");
    until(|| gateways[0].health().is_ok());
    at_once(&gateways, 50, admit).into_iter().for_each(|it| drop(it.unwrap()));
    assert_eq!(spent(&gateways[0], "m"), 50);
    holds(&gateways);
}

#[test]
fn a_commit_whose_wait_for_a_standby_is_cancelled_is_not_acknowledged() {
    let Some(binaries) = binaries() else { return };
    let server = Server::start(&binaries, &[]);
    let url = server.database();
    let gateway = Postgres::open(access(&url)).unwrap();
    let set = |value: &str| {
        sql(&url, &format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"));
        sql(&url, "SELECT pg_reload_conf()");
    };
    set("nobody");
    // The server takes it in when it is told of it.
    std::thread::sleep(Duration::from_secs(1));
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| wait(gateway.admit(payment("k", 1, &["m"]))));
        while !asked.is_finished() {
            sql(&url, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        }
        asked.join().unwrap()
    });
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    assert!(gateway.health().is_err());
    set("");
    until(|| gateway.health().is_ok());
    // It is there, once.
    let again = wait(gateway.admit(payment("k", 1, &["m"]))).unwrap();
    assert!(matches!(again, Admitted::Existing(_)), "{again:?}");
    assert_eq!(spent(&gateway, "m"), 1);
    wait(gateway.verify()).unwrap();
}

#[test]
fn what_is_written_beside_the_writer_is_not_acknowledged_without_the_standby_either() {
    let Some(binaries) = binaries() else { return };
    // Who sends no warnings does not say so, unless it is asked to.
    let server = Server::start(&binaries, &["client_min_messages=error"]);
    let url = server.database();
    let gateway = Postgres::open(access(&url)).unwrap();
    let set = |value: &str| {
        sql(&url, &format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"));
        sql(&url, "SELECT pg_reload_conf()");
    };
    set("nobody");
    // The server takes it in when it is told of it.
    std::thread::sleep(Duration::from_secs(1));
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| wait(gateway.tenant_key(&Tenant::default(), Some(vec![7]))));
        while !asked.is_finished() {
            sql(&url, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        }
        asked.join().unwrap()
    });
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    set("");
    let kept = wait(gateway.tenant_key(&Tenant::default(), None)).unwrap();
    assert_eq!(kept, Some(vec![7]), "it is there");
}

/// What a database that is shared, or lies behind something that shares connections, may not offer.
#[test]
fn no_statement_takes_advisory_locks_listens_or_draws_from_a_sequence() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/postgres");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.extend(std::fs::read_dir(folder.join("migrations")).unwrap().map(|it| it.unwrap().path()));
    let mut read = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        // Prose may speak of them.
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//") && !line.trim_start().starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n").to_uppercase();
        let words: BTreeSet<&str> = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_').collect();
        for word in ["LISTEN", "NOTIFY", "NEXTVAL", "SERIAL", "BIGSERIAL"] {
            assert!(!words.contains(word), "{word} in {}", file.display());
        }
        for phrase in ["ADVISORY", "CREATE SEQUENCE", "AS IDENTITY"] {
            assert!(!text.contains(phrase), "{phrase} in {}", file.display());
        }
        read += 1;
    }
    assert!(read > 10);
}

#[test]
fn who_was_silent_while_the_database_was_away_is_given_time_to_be_heard_before_others_are_counted() {
    let Some((url, gateways)) = gateways(2) else { return };
    sql(&url, "UPDATE replica SET beat = clock_timestamp() - interval '1 minute'");
    assert_eq!(wait(gateways[0].others()).unwrap(), 1);
    admitted(&gateways[1], admission("goes-on"));
    assert_eq!(asked(&url, "SELECT count(*) FROM replica WHERE ended").unwrap()[0][0].as_deref(), Some("0"));
}
