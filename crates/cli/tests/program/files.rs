//! `countersign catalog` and `countersign policy`: what an operator reads when a file is wrong, and when it is right.

use std::path::Path;

use crate::common::{Run, countersign, finished, run};

/// Run where the fixtures have short names.
fn here(args: &[&str]) -> Run {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/fixtures");
    finished(countersign().current_dir(fixtures).args(args).output().unwrap())
}

#[test]
fn every_mistake_in_a_catalogue_is_shown_where_it_stands() {
    let told = here(&["catalog", "check", "catalogue"]);
    assert_eq!(told.code, 1);
    insta::assert_snapshot!("catalog_mistakes", told.stderr);
}

#[test]
fn every_mistake_in_a_policy_is_shown_where_it_stands() {
    let told = here(&["policy", "check", "policies"]);
    assert_eq!(told.code, 1);
    insta::assert_snapshot!("policy_mistakes", told.stderr);
}

#[test]
fn a_binding_is_checked_as_the_gateway_would_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = folder.path().join("catalogue/default");
    std::fs::create_dir_all(&tenant).unwrap();
    let archetype = "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\n[binding]\nprovider = \"http\"\n\
                     base = \"https://bank.example\"\nheaders = { Authorization = { \"$secret\" = \"bank\" } }\n\
                     [binding.act]\npath = \"/pay\"\nsuccess = { status = [200] }\n";
    std::fs::write(tenant.join("payment.toml"), archetype).unwrap();
    let catalogue = folder.path().join("catalogue").display().to_string();
    let undeclared = run(["catalog", "check", &catalogue]);
    assert_eq!(undeclared.code, 1);
    assert!(undeclared.stderr.contains("payment.toml:6:"), "{}", undeclared.stderr);

    // Declared is enough: a checker need not hold the secret.
    let config = folder.path().join("countersign.toml");
    std::fs::write(&config, "[secrets.bank]\nenv = \"NO_SUCH_VARIABLE\"\nhosts = [\"bank.example\"]\n").unwrap();
    let declared = run(["catalog", "check", &catalogue, "--config", config.to_str().unwrap()]);
    assert_eq!(declared.code, 0, "{}", declared.stderr);
    assert!(declared.stdout.contains("PAYMENT_TRANSFER"), "{}", declared.stdout);
}

#[test]
fn every_template_is_a_policy_that_checks() {
    let folder = tempfile::tempdir().unwrap();
    let listed = run(["policy", "templates"]).stdout;
    let names: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.len(), 10, "{listed}");
    for name in names {
        let printed = run(["policy", "templates", name]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        std::fs::write(folder.path().join(format!("{name}.cedar")), printed.stdout).unwrap();
    }
    let told = run(["policy", "check", folder.path().to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn a_wrong_name_says_what_to_do() {
    let told = run(["policy", "templates", "no-such"]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("`countersign policy templates`"), "{}", told.stderr);
    assert_eq!(run(["policy", "check", "/no/such/folder"]).code, 1);
    assert_eq!(run(["no-such-command"]).code, 64);
    assert_eq!(run(["--help"]).code, 0);
}
