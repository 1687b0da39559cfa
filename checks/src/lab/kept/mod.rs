//! A run that is kept in files, so that another one goes on where it ended.
//!
//! The file that the user names has what was found, a JSON line for each variant that is done. Next
//! to it is a file for each search that was under way. Each is written as a whole, beside its
//! place, so that a run that is killed at any moment leaves what it had saved before.
//!
//! Guarantee: a run that goes on prints what it would have printed at once. Variants are explored
//! in the same way whenever they are saved, and files of another program, of other variants or of
//! another search are refused.

mod log;
mod origin;
mod saved;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvmmu_sim::outcome::{Outcome, Reason, Verdict};

use crate::cli::exit::Failure;
use crate::lab::kept::log::{Entry, Log};
use crate::lab::kept::origin::Origin;
use crate::lab::kept::saved::{Saved, When};
use crate::lab::run::{Machine, Progress};
use crate::lab::search::Search;
use crate::lab::variant::{Variant, hash, shell_word};

/// A run that is kept.
pub struct Kept {
    path: PathBuf,
    origin: Origin,
    /// The variants, by name.
    names: Vec<String>,
    /// What tells them apart.
    keys: Vec<u64>,
    when: When,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nobody asked for it, and there was nothing to keep so far.
    log: Option<Log>,
    /// The variants that are done, by index.
    done: BTreeMap<usize, Outcome>,
    /// How many were done, and how many searches were under way, when it began.
    before: (usize, usize),
    /// Searches that were saved where they ended, by index.
    ended: Vec<usize>,
    /// What could not be written, and why.
    failed: Option<Failure>,
}

impl Kept {
    /// The run over `variants` that is kept in `path`, which begins if there is no such file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, is none of a run, is damaged, is of another run or of
    /// another version, or is in use.
    pub fn open(path: &Path, variants: &[Variant], search: &Search) -> Result<Kept, Failure> {
        let mut kept = Kept::new(path.to_owned(), variants, search, When::Often);
        let (log, done) = Log::open(path, &kept.origin, &kept.names)?;
        let state = kept.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        (state.log, state.done) = (Some(log), done);
        let mut under_way = 0;
        for job in 0..variants.len() {
            let file = saved::place(path, job);
            match state.done.contains_key(&job) {
                // The run was killed between two steps.
                true => saved::remove(&file),
                false => {
                    under_way += usize::from(saved::check(&file, &kept.origin, &kept.names[job])?);
                }
            }
        }
        state.before = (state.done.len(), under_way);
        Ok(kept)
    }

    /// A run that nobody asked to keep: where memory ends a search, it goes to a file in
    /// `directory`, and what is done with it.
    pub fn if_memory_ends(directory: &Path, variants: &[Variant], search: &Search) -> Kept {
        let mut kept = Kept::new(PathBuf::new(), variants, search, When::MemoryEnds);
        kept.path = directory.join(format!("resume-{}", &kept.origin.selection[..8]));
        kept
    }

    fn new(path: PathBuf, variants: &[Variant], search: &Search, when: When) -> Kept {
        let keys = variants.iter().map(key).collect();
        let names = variants.iter().map(Variant::name).collect();
        let origin = Origin::of(variants, search);
        Kept { path, origin, names, keys, when, state: Mutex::default() }
    }

    /// What to say when the run begins, if it goes on with another.
    pub fn begun(&self) -> Option<String> {
        let (done, under_way) = self.lock().before;
        let path = self.path.display();
        (done + under_way > 0).then(|| {
            let all = self.names.len();
            format!("{path}: {done} of {all} variants are done, and {under_way} under way")
        })
    }

    /// What to say when the run has ended, if it can be gone on with: `command` is how.
    pub fn ended(&self, command: &str) -> Option<String> {
        let state = self.lock();
        state.log.as_ref()?;
        let left = self.names.len() - state.done.len();
        let path = shell_word(&self.path.display().to_string());
        let saved = match state.ended.len() {
            0 => String::new(),
            1 => " (of 1 it is saved how far it came)".to_owned(),
            n => format!(" (of {n} it is saved how far they came)"),
        };
        let left = match left {
            0 => return None,
            1 => "1 variant has".to_owned(),
            n => format!("{n} variants have"),
        };
        Some(format!("{left} no verdict yet{saved}: '{command} --resume {path}' goes on"))
    }

    /// What could not be written.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failed.take()
    }

    /// [`Machine::explore`], unless it is done, from where it was saved.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn explore(
        &self,
        machine: &dyn Machine,
        variant: &Variant,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Outcome, Failure> {
        let goal = variant.goal();
        let Some(job) = self.job(variant) else {
            return machine.explore(variant, &goal, search, progress);
        };
        if let Some(outcome) = self.lock().done.get(&job) {
            return Ok(outcome.clone());
        }
        let mut keep = Saved::new(self, job);
        let outcome = machine.explore_kept(variant, &goal, search, progress, &mut keep)?;
        self.note(job, &outcome);
        Ok(outcome)
    }

    fn job(&self, variant: &Variant) -> Option<usize> {
        let key = key(variant);
        self.keys.iter().position(|other| *other == key)
    }

    /// A search has ended: keeps what it found, if it would find nothing else with other bounds.
    fn note(&self, job: usize, outcome: &Outcome) {
        use Reason::{Executions, InternalError, Interrupted, Memory, States, Time};
        if let Verdict::Inconclusive(
            Executions | InternalError | Interrupted | Memory | States | Time,
        ) = outcome.verdict
        {
            return;
        }
        let mut state = self.lock();
        state.done.insert(job, outcome.clone());
        let State { log, .. } = &mut *state;
        let entry = Entry::of(job, &self.names[job], outcome);
        match log.as_mut().map(|log| log.add(&entry)) {
            None => {}
            Some(Ok(())) => saved::remove(&saved::place(&self.path, job)),
            Some(Err(failure)) => self.fail(&mut state, failure),
        }
    }

    /// The first thing that cannot be written is reported.
    fn fail(&self, state: &mut State, failure: Failure) {
        state.failed.get_or_insert(failure);
    }

    /// Makes the file where nobody asked for one: there is something to keep.
    fn begin(&self) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.log.is_none() {
            let entries = state.done.iter().map(|(job, o)| Entry::of(*job, &self.names[*job], o));
            state.log = Some(Log::begin(&self.path, &self.origin, entries)?);
        }
        Ok(())
    }

    /// A search was saved, or could not be.
    fn was_saved(&self, job: usize, ended: bool, result: Result<(), Failure>) {
        let mut state = self.lock();
        match result {
            Ok(()) if ended => state.ended.push(job),
            Ok(()) => {}
            Err(failure) => self.fail(&mut state, failure),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What tells a variant from others, with what is expected of it.
fn key(variant: &Variant) -> u64 {
    hash(&format!("{variant:?}"))
}
