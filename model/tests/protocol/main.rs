//! Goal: docs/protocol.md is what `model/src` says, without the tool's lines.
//! Method: it is made again from the sources and compared. `KVMMU_BLESS=1` writes it.

mod items;
mod page;
mod strip;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_page_is_what_the_model_says() {
    let file = root().join("docs/protocol.md");
    let made = page::page(&root().join("model/src"));
    for word in ["Guard::", "Mark::", "checkpoint(", "self.p.", "guarded(", "/*guard"] {
        let line = made.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "'{word}' is the tool's, and the page has it");
    }
    if std::env::var_os("KVMMU_BLESS").is_some() {
        std::fs::write(&file, &made).expect("docs/protocol.md can be written");
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        there == made,
        "docs/protocol.md is not what model/src says, from line {} on: KVMMU_BLESS=1 cargo test -p \
         kvmmu-model --test protocol writes it",
        differs.unwrap_or_else(|| there.lines().count().min(made.lines().count())) + 1
    );
}

/// Each of the tool's words leaves the page; what it was around stays. Where a lock is released is
/// said.
#[test]
fn the_tools_words_are_taken_out() {
    let source = "
fn kvm_zap(&self, l: &mut Locked) -> bool {
    self.p.checkpoint(());
    let early = self.p.without(Guard::GupOutsideMmuLock, || self.kvm.mmu_lock.lock());
    let l = early.unwrap_or_else(|| self.kvm.mmu_lock.lock());
    self.p.without(Guard::FlushBeforeFree, || {
        // In the wrong order.
        self.free(l);
    });
    self.p.guarded(Guard::FlushBeforeFree, || {
        self.flush();
    });
    if owed {
        self.p.guarded(Guard::GetPageFlush, || self.flush_remote(None));
    }
    self.p.mark(Mark::SpteZapped);
    if done {
        self.p.mark(Mark::SpteSet);
    }
    self.p.call(\"copy_to_user\", || self.host.access_user_memory());
    there && self.p.guarded(Guard::RangeStartFlush, || true)
}
";
    let wanted = "
fn kvm_zap(l: &mut Locked) -> bool {
    let l = kvm.mmu_lock.lock();  // guard: gup-outside-mmu-lock
    flush();  // guard: flush-before-free
    if owed {
        flush_remote(None);  // guard: get-page-flush
    }
    copy_to_user();
    there  // guard: range-start-flush
}  // releases mmu_lock
";
    assert_eq!(strip::strip(source), wanted);
}
