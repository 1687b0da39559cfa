//! What happened, as one type. Every report, trace file and replay check consumes it.

use kvmmu_model::{Mark, Mode, Tag};

use super::rule::Rule;

/// One thing that happened in one step. A step may have several.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Event {
    /// The step, counted from 1. Events of the stop phase count on.
    pub step: u32,
    /// The thread that took the step; [`Event::STOP`] in the stop phase.
    pub thread: u8,
    /// The kernel function that was running, and those that called it, outermost first.
    pub stack: Vec<&'static str>,
    /// Where in the model's source.
    pub file: &'static str,
    /// See [`Event::file`].
    pub line: u32,
    /// Locks that the thread holds, in the order in which it took them.
    pub held: Vec<Tag>,
    /// What happened.
    pub what: What,
}

impl Event {
    /// The thread number of the stop phase, which runs alone after every other thread.
    pub const STOP: u8 = u8::MAX;
}

/// The kinds of things that happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A word was read.
    Load {
        /// Which word.
        object: Tag,
        /// What it held.
        value: u64,
    },
    /// A word was written: by a plain store or by an atomic operation.
    Write {
        /// Which word.
        object: Tag,
        /// How.
        how: Write,
        /// What it held before.
        old: u64,
        /// What it holds now.
        new: u64,
    },
    /// A `compare_exchange` met another value and wrote nothing.
    CmpxchgFailed {
        /// Which word.
        object: Tag,
        /// What the caller expected.
        expected: u64,
        /// What the word held.
        found: u64,
    },
    /// A wait ended.
    Waited {
        /// The word that was waited for.
        object: Tag,
        /// The value that ended the wait.
        value: u64,
    },
    /// A lock was taken, or a read section begun.
    Acquire {
        /// Which lock.
        object: Tag,
        /// How it is held.
        mode: Mode,
    },
    /// A lock was released, or a read section ended.
    Release {
        /// Which lock.
        object: Tag,
    },
    /// A grace period of SRCU or RCU began or is over.
    GracePeriod {
        /// Which domain.
        object: Tag,
        /// It is over: every read section that it had to wait for has ended.
        over: bool,
    },
    /// A callback was handed to RCU.
    CallRcu {
        /// Which domain.
        object: Tag,
        /// What it is for.
        callback: u64,
    },
    /// A thread took a ripe callback, which it runs.
    Callback {
        /// Which domain.
        object: Tag,
        /// What it is for; `None`: none is left, and none comes.
        callback: Option<u64>,
    },
    /// A memory barrier.
    Fence,
    /// A kernel function or an operation was entered.
    Call(&'static str),
    /// It returned.
    Return(&'static str),
    /// A named moment.
    Mark(Mark),
    /// Hardware, the guest, the host or user space did something, in words.
    Note(String),
    /// A rule was violated.
    Violation {
        /// Which rule.
        rule: Rule,
        /// What is wrong, in words.
        detail: String,
    },
}

/// How a word was written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Write {
    /// A plain store.
    Store,
    /// `swap`.
    Swap,
    /// A `compare_exchange` that succeeded.
    Cmpxchg,
    /// `fetch_or`, `or`.
    Or,
    /// `fetch_and`, `and`.
    And,
    /// `fetch_add`, `add`.
    Add,
    /// Hardware or an actor outside KVM.
    Hardware,
}
