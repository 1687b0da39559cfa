//! Goal: what is printed as reStructuredText is that. Method: docutils reads it, where it is there.

use std::io::Write;
use std::process::{Command, Stdio};

/// What docutils says of `text`: its warnings, and how many tables it has; `None`: it is not here.
pub(crate) fn docutils(text: &str) -> Option<String> {
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
