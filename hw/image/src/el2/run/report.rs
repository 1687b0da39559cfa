//! What was found: lines on the console, and the verdict at the end.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::el2::cpu::console::say;
use crate::el2::cpu::exit::{Exit, exit};

/// The findings of a run.
#[derive(Debug)]
pub(crate) struct Report {
    expected: u32,
    unexpected: Vec<String>,
    nothing: bool,
    is_qemu: bool,
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(is_qemu: bool) -> Report {
        Report { expected: 0, unexpected: Vec::new(), nothing: false, is_qemu }
    }
    /// True if this is QEMU, of whose TLBs we know what they keep.
    pub(crate) fn is_qemu(&self) -> bool {
        self.is_qemu
    }
    /// Something has to be lost, or not. What has to be lost may survive on a board, whose TLBs
    /// need not keep what they may keep: that is told, and no failure.
    pub(crate) fn check_lost(&mut self, lost: bool, must: bool, what: String) {
        if must && !lost && !self.is_qemu {
            self.note(format!("{what} (it may be lost, and was not)"));
        } else {
            self.check(lost == must, what);
        }
    }
    /// Something was as it must be.
    pub(crate) fn expected(&mut self, what: String) {
        say!("ok: {what}");
        self.expected += 1;
    }
    /// Something was not.
    pub(crate) fn unexpected(&mut self, what: String) {
        say!("UNEXPECTED: {what}");
        self.unexpected.push(what);
    }
    /// Something that is neither.
    pub(crate) fn note(&mut self, what: String) {
        say!("note: {what}");
    }
    /// What was asked for is not there.
    pub(crate) fn select_nothing(&mut self, why: String) {
        say!("error: {why}");
        self.nothing = true;
    }
    /// Something has to be so.
    pub(crate) fn check(&mut self, is_so: bool, what: String) {
        if is_so { self.expected(what) } else { self.unexpected(what) }
    }
    /// Ends the run, and says again what was not as it must be: the end of a long log is what is
    /// read first.
    pub(crate) fn end(self) -> ! {
        let Report { expected, unexpected, nothing, .. } = self;
        for what in &unexpected {
            say!("again, UNEXPECTED: {what}");
        }
        let code = match (nothing, unexpected.len()) {
            (true, _) => Exit::Nothing,
            (false, 0) => Exit::Expected,
            _ => Exit::Unexpected,
        };
        exit(code, format_args!("{expected} as expected, {} unexpected", unexpected.len()))
    }
}
