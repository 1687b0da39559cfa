//! The sets that the simulator allows.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::outcome::{HARVESTS_MAX, Outcome, harvests_max};
use kvmmu_scenarios::scenario::{Arch, Format};
use kvmmu_sim::outcome::{Reason, Stats, Verdict};

use super::Request;
use crate::cli::exit::Failure;
use crate::cli::progress::Progress;
use crate::lab::judge::unjudged;
use crate::lab::pool;
use crate::lab::run::{self, MEMORY_MODEL};
use crate::lab::variant::Variant;

/// What the simulator allows for one variant.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Each outcome, and in how many final states it was met.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The bound that cut the search: there may be more outcomes.
    pub cut: Option<Reason>,
    /// Of which missing guards the set says nothing, in words: without them there may be more
    /// outcomes on a machine whose memory is weaker.
    pub unjudged: Option<String>,
    /// What ended executions before they had an outcome, in order of names.
    pub broken: Vec<&'static str>,
    /// What the search took.
    pub stats: Stats,
}

impl Allowed {
    /// True if there are no other outcomes.
    pub fn is_complete(&self) -> bool {
        self.cut.is_none() && self.unjudged.is_none()
    }
}

/// The variant on another layout of SPTEs, if one is given and its MMU has more than one.
pub fn on(variant: Variant, layout: Option<Format>) -> Variant {
    let Some(spte) = layout.filter(|_| variant.scenario.profile.arch() == Arch::X86) else {
        return variant;
    };
    // Where there is no PML the log is kept by write protection.
    let pml = variant.scenario.pml && spte == Format::Ept;
    let scenario = Scenario { spte, pml, ..Scenario::clone(&variant.scenario) };
    Variant { scenario: Arc::new(scenario), ..variant }
}

/// The name of a variant's layout.
pub fn layout_of(variant: &Variant) -> &'static str {
    format_of(variant.scenario.spte).name
}

/// Collects the sets of `variants` and gives them to `done` in order, until all are done or
/// `interrupted` says so.
///
/// # Errors
///
/// Those of the engine, a scenario with too many harvests, those of `done`.
pub fn collect_all(
    variants: &[Variant],
    request: &Request,
    interrupted: &(dyn Fn() -> bool + Sync),
    mut done: impl FnMut(usize, Allowed) -> Result<(), Failure>,
) -> Result<(), Failure> {
    variants.iter().try_for_each(fits)?;
    let progress = Progress::new(variants.len(), request.quiet);
    let work = |job: usize| match interrupted() {
        true => Ok(None),
        false => collect(&variants[job], request, &progress, interrupted).map(Some),
    };
    pool::run(
        variants.len(),
        request.jobs,
        request.quiet,
        || {},
        work,
        |job, result| match result? {
            Some(allowed) => progress.done(allowed.stats.transitions, || done(job, allowed)),
            None => Ok(()),
        },
    )?;
    progress.finish();
    Ok(())
}

/// Refuses a scenario whose harvests no outcome has room for.
fn fits(variant: &Variant) -> Result<(), Failure> {
    let count = harvests_max(&variant.scenario);
    if count <= HARVESTS_MAX {
        return Ok(());
    }
    let name = variant.file.as_deref().unwrap_or(&variant.scenario.name);
    Err(Failure::usage(
        format!(
            "{name} gets the dirty log {count} times, and an outcome has room for {HARVESTS_MAX}"
        ),
        "take some get-dirty-log out of its programs, or load it at a smaller --size",
    ))
}

fn collect(
    variant: &Variant,
    request: &Request,
    progress: &Progress,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Allowed, Failure> {
    let name = variant.name();
    let tick = |stats: &Stats| {
        progress.tick(&name, stats);
        !interrupted()
    };
    let collected = run::outcomes(variant, &request.search, &tick)?;
    let cut = match collected.verdict {
        Verdict::Inconclusive(reason) => Some(reason),
        Verdict::Holds | Verdict::Violated(_) => None,
    };
    let mut broken: Vec<&'static str> = collected.broken.iter().map(|f| f.rule.name()).collect();
    broken.sort_unstable();
    broken.dedup();
    let unjudged = unjudged(variant.without, MEMORY_MODEL);
    Ok(Allowed { outcomes: collected.outcomes, cut, unjudged, broken, stats: collected.stats })
}
