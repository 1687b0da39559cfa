//! Which run a kept file is of: it is of use for the same one only.

use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, Failure};
use crate::lab::search::Search;
use crate::lab::shard;
use crate::lab::variant::Variant;

/// What a run has to have in common with the one that goes on with it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    version: String,
    /// Of the sources of the whole program, and of what it is made with.
    build: String,
    machine: String,
    strategy: String,
    seed: u64,
    steps_max: u32,
    pct_depth: String,
    /// How many are sampled, where that is all.
    executions_max: Option<u64>,
    /// A stamp of all variants.
    pub(super) selection: String,
}

impl Origin {
    /// Of the run over `variants` by this program on this machine.
    pub(super) fn of(variants: &[Variant], search: &Search) -> Origin {
        Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: env!("KVMMU_BUILD_HASH").to_owned(),
            machine: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            strategy: format!("{:?}", search.strategy).to_lowercase(),
            seed: search.seed,
            steps_max: search.steps_max,
            pct_depth: search.pct.to_string(),
            executions_max: search.samples().then_some(search.executions_max),
            selection: shard::stamp(variants),
        }
    }

    /// Refuses to go on at `place` with what is of `self` in the run `mine`.
    ///
    /// # Errors
    ///
    /// The first thing that differs, and what to do.
    pub(super) fn refuse_other(&self, mine: &Origin, place: &str) -> Result<(), Failure> {
        let same_program = "go on with the program that wrote it, or name another file to begin";
        let same_words = "go on with the words that it was begun with (bounds and --jobs may \
                          differ), or name another file to begin";
        let all = [
            ("kvmmu", &self.version, &mine.version, same_program),
            ("build", &self.build, &mine.build, same_program),
            ("machine", &self.machine, &mine.machine, same_program),
            ("strategy", &self.strategy, &mine.strategy, same_words),
            ("seed", &self.seed.to_string(), &mine.seed.to_string(), same_words),
            ("--steps-max", &self.steps_max.to_string(), &mine.steps_max.to_string(), same_words),
            ("--pct-depth", &self.pct_depth, &mine.pct_depth, same_words),
        ];
        for (i, (what, its, own, help)) in all.into_iter().enumerate() {
            if its != own {
                let exit = if i < 3 { Exit::Diverged } else { Exit::Usage };
                let message = format!("{place}: this is of {what} {its}, and this run of {own}");
                return Err(Failure::new(exit, message, help));
            }
        }
        if self.executions_max != mine.executions_max {
            let message = format!("{place}: this is of another number of executions");
            return Err(Failure::usage(message, same_words));
        }
        if self.selection != mine.selection {
            let message = format!("{place}: this is of other variants, or a scenario has changed");
            return Err(Failure::usage(message, same_words));
        }
        Ok(())
    }
}
