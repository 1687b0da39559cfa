//! Goal: `explain` tells each of the document's stories in a table of at most 20 steps that
//! docutils reads. Method: the command itself, on the built-in scenarios.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `kvmmu explain` and gives its standard output.
#[track_caller]
fn explain(name: &str, format: &str) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stories");
    std::fs::create_dir_all(&directory).expect("a test can make its directory");
    let output = Command::new(env!("CARGO_BIN_EXE_kvmmu"))
        .args(["explain", name, "--format", format, "-q"])
        .current_dir(directory)
        .output()
        .expect("kvmmu starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{name}: {said}");
    String::from_utf8(output.stdout).expect("a report is text")
}

/// Checks the story of one scenario: `moments` appear in its table, in this order.
#[track_caller]
fn tells(name: &str, moments: &[&str]) {
    let json: serde_json::Value =
        serde_json::from_str(&explain(name, "json")).expect("a report is JSON");
    let steps = json["steps"].as_array().expect("there are steps");
    assert!(steps.len() <= 20, "{name}: {} steps", steps.len());
    let rst = explain(name, "rst");
    let table: Vec<&str> = rst.lines().filter(|l| l.starts_with(['+', '|'])).collect();
    assert!(table.iter().all(|l| l.len() == 74), "{rst}");
    let mut rest = table.join("\n");
    for moment in moments {
        let at = rest.find(moment);
        let Some(at) = at else { panic!("{name}: no '{moment}' at its place\n{rst}") };
        rest = rest.split_off(at + moment.len());
    }
    if let Some(said) = docutils(&rst) {
        assert_eq!(said, "tables=1", "{rst}");
    }
}

/// What docutils says of `text`: its warnings, and how many tables it has; `None`: it is not here.
fn docutils(text: &str) -> Option<String> {
    let program = "
import sys, docutils.core, docutils.nodes
doctree = docutils.core.publish_doctree(sys.stdin.read(), settings_overrides={
    'report_level': 5, 'halt_level': 5})
for node in doctree.findall(docutils.nodes.system_message):
    print(node.astext())
print('tables=%d' % len(list(doctree.findall(docutils.nodes.table))), end='')
";
    let present = Command::new("python3").args(["-c", "import docutils"]).output().ok()?;
    if !present.status.success() {
        return None;
    }
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn lost_dirty_clear() {
    let moments = ["judged-not-volatile", "fast-fault-writable", "spte-plain-store", "OOPS!!!"];
    tells("lost-dirty-clear", &moments);
}

#[test]
fn lost_dirty_update() {
    let moments = ["judged-not-volatile", "fast-fault-writable", "spte-plain-store", "OOPS!!!"];
    tells("lost-dirty-update", &moments);
}

#[test]
fn stale_tlb_write_protect() {
    let moments = ["write-protected", "shadow-page-linked", "through its TLB", "OOPS!!!"];
    tells("stale-tlb-write-protect", &moments);
}

#[test]
fn stale_walk_indirect() {
    let moments = ["spte-set", "write-protected", "fast-fault-fixed", "OOPS!!!"];
    tells("stale-walk-indirect", &moments);
}

#[test]
fn aba_indirect() {
    let moments = ["fast-fault-read", "spte-zapped", "spte-set", "fast-fault-fixed", "OOPS!!!"];
    tells("aba-indirect", &moments);
}
