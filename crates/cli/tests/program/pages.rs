//! What a page of the documentation says to type, typed as it stands.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{Run, countersign, finished};

const RUN: &str = include_str!("../../../../docs/run.md");

#[test]
fn the_page_on_runs_works_from_an_empty_directory() {
    let folder = tempfile::tempdir().unwrap();
    let typed = typed(&commands(RUN, "## From an empty directory"), folder.path());
    assert_eq!(typed.code, 0, "{}{}", typed.stdout, typed.stderr);
    assert!(typed.stdout.contains("refused: 77\n"), "{}", typed.stdout);
    for said in [
        "countersign: blocked · EP_BOUNDARY_BLOCK · not_permitted · ",
        "policy does not allow this action",
        "no policy permits it: put a `permit` for Action::\"NIGHTLY_BACKUP\" into the policy folder",
        "nothing ran: the same command line asks anew, also within the same period",
        "countersign: executed · exit 0 after ",
        "countersign: executed · carried out before, under the same key · ",
    ] {
        assert!(typed.says(said), "no word of `{said}`: {}", typed.stderr);
    }
    let ran = fs::read_to_string(folder.path().join("backups")).unwrap();
    assert_eq!(ran, "1 full\n1 --format=custom crm\n", "each once, and nothing when it was refused");
}

/// The blocks of commands of one section, in order.
fn commands(page: &str, heading: &str) -> String {
    let section = page.split(heading).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default()).collect()
}

/// Types it into a shell that finds the program in its path, and a port that is free.
fn typed(commands: &str, folder: &Path) -> Run {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = countersign();
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let beside = Path::new(program.get_program()).parent().unwrap().to_owned();
    let path = std::env::join_paths([beside].into_iter().chain(std::env::split_paths(&folders))).unwrap();
    let mut shell = Command::new("bash");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.args(["-e", "-u", "-o", "pipefail", "-c", commands]).current_dir(folder).env("PATH", path);
    shell.env("COUNTERSIGN_LISTEN", port.to_string()).env("COUNTERSIGN_URL", format!("http://{port}"));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = shell.spawn().unwrap();
    let group = format!("-{}", child.id());
    let output: Output = child.wait_with_output().unwrap();
    // What it left running, if it did not come to its end.
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    finished(output)
}
