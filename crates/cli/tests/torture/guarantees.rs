//! The harness under fire, as anybody can run it: a gateway that is killed again and again keeps every promise, and there is no
//! crash point that nothing passes.

use serde_json::{Value, json};

use crate::house::countersign;

/// As many as end in about a minute; `countersign selftest --guarantees --actions 10000` is the whole.
const ACTIONS: &str = "1000";

#[test]
fn every_promise_is_kept_under_fire() {
    let mut selftest = countersign();
    let run = selftest.args(["selftest", "--guarantees", "--json", "--actions", ACTIONS]).output().unwrap();
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    let counts: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{told}"));
    assert_eq!(counts["findings"], json!([]), "{counts:#}\n{told}");
    assert!(run.status.success(), "{told}");
    assert_eq!(counts["points_not_passed"], json!([]), "seed {}", counts["seed"]);
    for way in ["reserved", "challenged", "run", "tried_again", "resolved", "erased", "found_late"] {
        assert!(counts[way].as_u64().is_some_and(|count| count > 0), "none is {way}: {counts:#}");
    }
    for row in counts["rows"].as_array().unwrap() {
        let name = format!("{} at {}", row["provider"], row["level"]);
        let (actions, refused) = (row["actions"].as_u64().unwrap(), row["refused"].as_u64().unwrap());
        let completed = row["completed"].as_u64().unwrap() + row["rolled_back"].as_u64().unwrap();
        match refused {
            0 => assert!(completed > 0, "{name}: some are carried out: {row}"),
            _ => assert_eq!(refused, actions, "{name}: all or none are refused"),
        }
    }
}

#[test]
fn a_crash_point_that_is_none_stops_the_start() {
    let run = countersign().arg("serve").env("COUNTERSIGN_CRASH_AT", "send.midway").output().unwrap();
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && told.contains("names no crash point: `send.midway`"), "{told}");
    assert!(told.contains("send.before"), "it lists them: {told}");
}
