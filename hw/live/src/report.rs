//! What is printed: a line for people, or a JSON object.
//!
//! Results go to standard output. Each object has `"kvmmu-live":1` and a `type`; a reader skips
//! types that it does not know, and lines that are no objects (a kernel's messages on the same
//! console).

use std::io::Write;

use kvmmu_qemu::{Exit, Failure};
use serde::Serialize;

use crate::cli::Format;
use crate::job::{Job, Outcome};
use crate::kernel::Kernel;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// For whom.
    pub format: Format,
}

/// One run and its verdict.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct RunLine<'a> {
    /// What was run.
    pub name: &'a str,
    /// The guests' paging.
    pub guest: &'static str,
    /// What KVM makes of it: `direct`, `none`, `guest`.
    pub paging: &'static str,
    /// The dirty log.
    pub log: &'static str,
    /// The host's event.
    pub event: Option<&'static str>,
    /// The wrong order.
    pub broken: Option<&'static str>,
    /// What came out.
    pub outcome: &'a Outcome,
    /// `ok`, `LOST`, `WRONG`, `caught`, `MISSED`.
    pub verdict: &'static str,
    /// How many runs it took (negative controls are tried several times).
    pub attempts: u32,
}

/// A JSON line: its type, and what it carries.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "kvmmu-live")]
    version: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    data: &'a T,
}

/// The verdict of an outcome.
pub fn verdict(job: &Job, outcome: &Outcome) -> (&'static str, Exit) {
    let caught = outcome.pages_lost > 0;
    match job.broken {
        // A negative control proves nothing if the guest's own memory is wrong.
        _ if outcome.words_wrong > 0 => ("WRONG", Exit::Unexpected),
        Some(_) if caught => ("caught", Exit::Expected),
        Some(_) => ("MISSED", Exit::Unexpected),
        None if caught => ("LOST", Exit::Unexpected),
        None => ("ok", Exit::Expected),
    }
}

impl Report {
    /// Something of type `kind`; `human` is the same for people.
    pub fn say(&self, kind: &'static str, data: &impl Serialize, human: &str) {
        let text = match self.format {
            Format::Human => human.to_owned(),
            Format::Json => serde_json::to_string(&Line { version: 1, kind, data })
                .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")),
        };
        if text.is_empty() {
            return;
        }
        // A reader of the pipe that has left is not our failure.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// Lines that have a form of their own.
    pub fn lines(&self, lines: &[String]) {
        let mut out = std::io::stdout().lock();
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }

    /// A run.
    pub fn run(&self, line: &RunLine<'_>) {
        let Outcome { pages_lost, words_wrong, rounds, pages_harvested, ms, .. } = *line.outcome;
        let number = |n: Option<u64>| n.map_or("not counted".to_owned(), |n| n.to_string());
        let paths = &line.outcome.paths;
        let fast = match (paths.fast_fixed, paths.fast_spurious) {
            (Some(fixed), Some(spurious)) => format!("{fixed} fixed, {spurious} spurious"),
            _ => number(paths.fast),
        };
        let more = line.event.map(|e| format!(", {} {e}", line.outcome.events)).unwrap_or_default();
        let human = format!(
            "{:<34} {:<7} lost {pages_lost} of {} pages, wrong {words_wrong}, rounds {rounds}, \
             harvested {pages_harvested}, fast faults {fast}{more}, {ms} ms",
            line.name, line.verdict, line.outcome.pages_touched,
        );
        self.say("run", line, &human);
    }

    /// What was not run, and why.
    pub fn skipped(&self, name: &str, why: &str) {
        #[derive(Serialize)]
        struct Skipped<'a> {
            name: &'a str,
            why: &'a str,
        }
        self.say("skip", &Skipped { name, why }, &format!("{name:<34} skipped: {why}"));
    }

    /// On which kernel all this is.
    pub fn kernel(&self, kernel: &Kernel) {
        #[derive(Serialize)]
        struct KernelLine<'a> {
            release: &'a str,
            version: &'a str,
            npt: Option<bool>,
            tdp_mmu: Option<bool>,
        }
        let Kernel { release, version, npt, tdp_mmu, .. } = kernel;
        let flag = |flag: &Option<bool>| flag.map_or("-", |on| if on { "1" } else { "0" });
        let human = format!(
            "kernel {version} ({release}), nested paging {}, tdp_mmu {}",
            flag(npt),
            flag(tdp_mmu)
        );
        let line = KernelLine { release, version, npt: *npt, tdp_mmu: *tdp_mmu };
        self.say("kernel", &line, &human);
    }

    /// A command ended without a result.
    pub fn failure(&self, failure: &Failure) {
        #[derive(Serialize)]
        struct FailureLine<'a> {
            exit: u8,
            message: &'a str,
            help: &'a str,
        }
        let Failure { exit, message, help } = failure;
        if self.format == Format::Json {
            self.say("failure", &FailureLine { exit: *exit as u8, message, help }, "");
        }
        let _ = writeln!(std::io::stderr().lock(), "{failure}");
    }
}
