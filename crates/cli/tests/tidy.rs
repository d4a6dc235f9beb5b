//! The shape of the house, checked: which crate may name which, and who makes a permit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The table of docs/ARCHITECTURE.md: what each crate names directly. Its right includes what those name.
const MAY_NAME: [(&str, &[&str]); 11] = [
    ("action", &[]),
    ("receipt", &[]),
    ("mandate", &["action"]),
    ("boundary", &["mandate"]),
    ("execution", &["boundary"]),
    ("provider", &["execution"]),
    ("ledger", &["execution", "receipt"]),
    ("gateway", &["action", "receipt", "mandate", "boundary", "execution", "provider", "ledger"]),
    ("server", &["gateway"]),
    ("testkit", &[]),
    ("cli", &["server", "testkit"]),
];

#[test]
fn a_crate_names_only_what_its_row_allows() {
    let rights = closure();
    for (name, manifest) in manifests() {
        let allowed =
            rights.get(name.as_str()).unwrap_or_else(|| panic!("crate `{name}` has no row in the table"));
        for dependency in ours(&manifest, "dependencies").union(&ours(&manifest, "build-dependencies")) {
            assert!(allowed.contains(dependency.as_str()), "`{name}` may not depend on `{dependency}`");
        }
        for dependency in ours(&manifest, "dev-dependencies") {
            assert!(
                dependency == "testkit" || allowed.contains(dependency.as_str()),
                "`{name}` may not depend on `{dependency}` even in tests"
            );
        }
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for (name, manifest) in manifests() {
        let inherits =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "`{name}` does not inherit the workspace's lints");
    }
}

#[test]
fn the_architecture_page_shows_what_every_crate_may_name() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    for (at, (name, names)) in MAY_NAME.into_iter().enumerate() {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no row for `{name}`"));
        let cell = row.trim_end_matches(" |").rsplit_once("| ").unwrap().1;
        let shown: Vec<&str> = match cell {
            "all above" => MAY_NAME[..at].iter().map(|(name, _)| *name).collect(),
            cell => cell.split('`').skip(1).step_by(2).collect(),
        };
        assert_eq!(shown, names, "what `{name}` names");
    }
}

/// Wherever the page says of a crate which module of it is meant.
#[test]
fn every_module_that_the_architecture_page_names_is_there() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let pieces: Vec<&str> = page.split('`').collect();
    let is_crate = |word: &str| MAY_NAME.iter().any(|(name, _)| *name == word);
    let mut count = 0;
    for piece in pieces.windows(3) {
        let [name, between, module] = piece else { unreachable!() };
        if !is_crate(name) || is_crate(module) || ![",", "("].contains(&between.trim()) {
            continue;
        }
        let folder = root().join("crates").join(name);
        let path = module.replace("::", "/").trim_end_matches('/').to_owned();
        let files = rust_files(&folder.join("src")).into_iter().chain(rust_files(&folder.join("tests")));
        let found = files.map(|file| file.strip_prefix(&folder).unwrap().to_owned()).any(|file| {
            file.ancestors().any(|it| it.ends_with(&path) || it.with_extension("").ends_with(&path))
        });
        assert!(found, "the page names `{module}` of `{name}`, which is not there");
        count += 1;
    }
    assert!(count > 15, "the page names {count} modules");
}

#[test]
fn a_permit_is_made_in_one_place() {
    let (mut built, mut minted) = (BTreeSet::new(), BTreeSet::new());
    for (name, _) in MAY_NAME {
        for file in rust_files(&root().join("crates").join(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            let builds = |line: &&str| line.trim_start() == "Permit {" || line.contains("= Permit {");
            if code.iter().any(builds) {
                built.insert(path.clone());
            }
            if code.iter().any(|line| line.contains("Permit::mint(")) {
                minted.insert(path);
            }
        }
    }
    assert_eq!(built.into_iter().collect::<Vec<_>>(), ["crates/boundary/src/verdict.rs"]);
    assert_eq!(minted.into_iter().collect::<Vec<_>>(), ["crates/boundary/src/decide.rs"]);
}

#[test]
fn shipped_code_never_reads_the_clock_or_the_environment_where_it_must_not() {
    for name in ["action", "receipt", "mandate", "boundary", "execution"] {
        for file in rust_files(&root().join("crates").join(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for word in
                ["SystemTime::now", "Instant::now", "Timestamp::now", "std::env::", "std::fs::", "std::net::"]
            {
                assert!(!text.contains(word), "{} uses {word}: `{name}` is pure", file.display());
            }
        }
    }
}

#[test]
fn every_test_that_the_conformance_page_names_is_there() {
    let page = fs::read_to_string(root().join("docs/conformance/aep.md")).unwrap();
    let named: Vec<Vec<&str>> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains("::") && !code.starts_with("Action::"))
        .map(|code| code.split("::").collect())
        .collect();
    assert!(named.len() > 100, "the page names {} tests", named.len());
    for path in named {
        let [name, file, test] = path[..] else { panic!("`{path:?}` is no `crate::file::test`") };
        let files = rust_files(&root().join("crates").join(name).join("tests"));
        let texts = files.iter().filter(|it| it.file_stem().is_some_and(|stem| stem == file));
        assert!(
            texts.map(|it| fs::read_to_string(it).unwrap()).any(|text| has_test(&text, test)),
            "crates/{name}/tests has no test `{test}` in a file {file}.rs"
        );
    }
    let rules = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |"));
    for rule in rules {
        let shown = rule.contains("::") || rule.contains("**not yet**: ");
        assert!(shown, "neither shown by a test nor marked as not yet: {rule}");
    }
}

/// Is there a function of this name right below what makes it a test?
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declares = [format!("fn {name}("), format!("async fn {name}(")];
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        declares.iter().any(|it| line.starts_with(it)) && attributes.clone().any(is_test)
    })
}

fn closure() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut rights: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, direct) in MAY_NAME {
        let mut all: BTreeSet<&str> = direct.iter().copied().collect();
        for named in direct {
            all.extend(rights.get(named).into_iter().flatten());
        }
        rights.insert(name, all);
    }
    rights
}

fn ours(manifest: &toml::Value, table: &str) -> BTreeSet<String> {
    let names: BTreeSet<&str> = MAY_NAME.iter().map(|(name, _)| *name).collect();
    let dependencies = manifest.get(table).and_then(toml::Value::as_table);
    dependencies
        .into_iter()
        .flat_map(|table| table.keys())
        .filter(|name| names.contains(name.as_str()))
        .cloned()
        .collect()
}

fn manifests() -> Vec<(String, toml::Value)> {
    let mut found: Vec<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(path.join("Cargo.toml")).unwrap();
            (name, toml::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty());
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
