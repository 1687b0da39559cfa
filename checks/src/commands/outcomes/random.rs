//! Random workloads that fit the simulator, real stage-2 tables and a live KVM alike: as scenario
//! files, so that each machine runs the same.
//!
//! Guarantee: the files are a function of the seed (and of the version: a draw that the simulator
//! does not explore in a moment, or that can end in one way only, is drawn again). Mechanism: one
//! slot with a dirty log, two or three frames, stores and loads of one or two vCPUs, a harvester
//! that copies, a host that swaps a page out or in.
//!
//! What a user of KVM cannot bring about is left out. Pages are mapped as they are after logging
//! was turned on, or not at all; nobody can ask for ageing. A frame that is swapped out is not
//! loaded from: whether a load maps a page writable, and so into the log, depends on what kind of
//! memory it is.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::scenario::Format;
use kvmmu_scenarios::{Scenario, loader};
use kvmmu_sim::outcome::{Reason, Stats, Verdict};
use kvmmu_sim::rng::Rng;

use super::allowed;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::{self, Existing};
use crate::cli::interrupt;
use crate::lab::judge::counted;
use crate::lab::run;
use crate::lab::search::Search;
use crate::lab::search::Strategy;
use crate::lab::variant::Variant;

/// Workloads with more states are drawn again: these take a part of a second. The TLBs of stage 2
/// add to them.
const STATES_MAX: u64 = 800_000;
const STAGE2_STATES_MAX: u64 = 1_600_000;

/// How many draws there are at most for one workload; a few suffice.
const DRAWS_MAX: u64 = 1_000;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// How many workloads.
    pub count: u16,
    /// The seed of all of them.
    pub seed: u64,
    /// Where the files go.
    pub directory: &'a Path,
    /// What happens to files that are there already.
    pub existing: Existing,
}

/// A workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// The name of its scenario.
    pub name: String,
    /// The scenario file.
    pub text: String,
    /// How many outcomes the simulator allows, on the layout of the file and on stage 2.
    pub outcomes: (usize, usize),
    /// How many states they took.
    pub states: (u64, u64),
}

/// Writes the files and says what is in them.
///
/// # Errors
///
/// A directory or a file that cannot be written, an interruption, errors of the engine.
pub fn emit(
    plan: &Plan<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
    to: &mut dyn Write,
) -> Result<Exit, Failure> {
    let path = |index| plan.directory.join(format!("{}.toml", name_of(plan.seed, index)));
    // Before anything is drawn: it takes its time.
    if plan.existing == Existing::Keep
        && let Some(path) = (1..=plan.count).map(path).find(|path| path.exists())
    {
        return Err(exists(&path));
    }
    for index in 1..=plan.count {
        let (path, workload) = (path(index), workload(plan.seed, index, interrupted)?);
        files::write(&path, &workload.text, plan.existing)
            .map_err(|error| cannot(&path, &error))?;
        let Workload { outcomes: (own, stage2), states: (few, more), .. } = workload;
        let (own, states) = (counted(own as u64, "outcome"), counted(few, "state"));
        let path = path.display();
        writeln!(to, "{path}: {own} on npt ({states}), {stage2} on stage2 ({more})")?;
    }
    to.flush()?;
    Ok(Exit::Expected)
}

/// There is a file already.
fn exists(path: &Path) -> Failure {
    Failure::usage(
        format!("{} exists", path.display()),
        "--force writes it again; or give --emit another directory",
    )
}

/// A file cannot be written.
fn cannot(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::AlreadyExists && path.exists() {
        return exists(path);
    }
    Failure::usage(
        format!("cannot write the workload {}: {error}", path.display()),
        "make room, or give --emit a directory that can be made or written to",
    )
}

/// Somebody asked to stop.
fn cut_short() -> Failure {
    Failure::new(
        interrupt::exit(),
        "interrupted while a random workload was drawn; files that were written are whole",
        "run it again and let it finish, or ask for fewer",
    )
}

/// The workload of this seed with this number.
///
/// # Errors
///
/// Those of the engine: bugs. An interruption.
pub fn workload(
    seed: u64,
    index: u16,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Workload, Failure> {
    for draw in 0..DRAWS_MAX {
        // Most draws are too small for their searches to ask.
        if interrupted() {
            return Err(cut_short());
        }
        let mut rng = Rng::new(seed ^ u64::from(index) << 48 ^ draw << 32);
        let (name, text) = (name_of(seed, index), draw_text(&mut rng, seed, index));
        let mut workload = Workload { name, text, outcomes: (0, 0), states: (0, 0) };
        let variant = Variant::of(&load(&workload)?, None, GuardSet::EMPTY);
        let Some((own, few)) = set(&variant, STATES_MAX, interrupted)? else { continue };
        let stage2 = allowed::on(variant, Some(Format::Stage2));
        let Some((stage2, more)) = set(&stage2, STAGE2_STATES_MAX, interrupted)? else {
            continue;
        };
        if own > 1 {
            (workload.outcomes, workload.states) = ((own, stage2), (few, more));
            return Ok(workload);
        }
    }
    Err(Failure::internal(format!("{DRAWS_MAX} draws gave no workload for seed {seed}")))
}

/// The scenario of the random workload that is called so, made anew; `None`: it is no name of one.
///
/// # Errors
///
/// Those of the engine: bugs.
pub fn named(name: &str) -> Result<Option<Arc<Scenario>>, Failure> {
    let parts = name.strip_prefix("random-").and_then(|rest| rest.split_once('-'));
    let Some((seed, index)) = parts else { return Ok(None) };
    let (Ok(seed), Ok(index)) = (seed.parse(), index.parse()) else { return Ok(None) };
    if name != name_of(seed, index) {
        return Ok(None);
    }
    load(&workload(seed, index, &interrupt::interrupted)?).map(Some)
}

fn name_of(seed: u64, index: u16) -> String {
    format!("random-{seed}-{index:03}")
}

fn load(workload: &Workload) -> Result<Arc<Scenario>, Failure> {
    let scenario = loader::load(&format!("{}.toml", workload.name), &workload.text, 1);
    scenario
        .map(Arc::new)
        .map_err(|error| Failure::internal(format!("a random workload does not load: {error}")))
}

/// How many outcomes a variant has, and how many states; `None`: too many.
fn set(
    variant: &Variant,
    states_max: u64,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Option<(usize, u64)>, Failure> {
    // So few states fit in any memory.
    let search = Search { strategy: Strategy::Stateful, states_max, ..Search::default() };
    let collected = run::outcomes(variant, &search, &|_: &Stats| !interrupted())?;
    if collected.verdict == Verdict::Inconclusive(Reason::Interrupted) {
        return Err(cut_short());
    }
    let all = collected.verdict == Verdict::Holds && collected.broken.is_empty();
    Ok(all.then_some((collected.outcomes.len(), collected.stats.states)))
}

/// A scenario file.
fn draw_text(rng: &mut Rng, seed: u64, index: u16) -> String {
    let frames = 2 + rng.below(2);
    let vcpus = 1 + usize::from(index % 2);
    let mut t = format!("title  = \"Random workload {index} of seed {seed}\"\n");
    t += "source = \"none: drawn by lot\"\n";
    t += "about  = \"\"\"\nLoads and stores under a migration. Every outcome that a machine shows \
          must be among\nthose of the simulator.\"\"\"\n";
    t += "paging = \"direct\"\nspte   = \"npt\"\n\n[host]\npages  = 8\n";
    for gfn in 0..frames {
        let _ = writeln!(t, "\"gfn{gfn}\" = {{ pfn = {gfn}, writable = true, dirty = false }}");
    }
    let _ = write!(t, "\n[[slot]]\ngfn   = 0\npages = {frames}\nlog   = true\n\n");
    let swapped = (rng.below(1 + vcpus) == 0).then(|| rng.below(frames));
    // Two vCPUs that both have to map a page take more states than there is time for.
    let mut maps = |gfn| (gfn, vcpus == 2 || rng.below(2) == 0);
    let mapped: Vec<(usize, bool)> = (0..frames).map(&mut maps).collect();
    if mapped.iter().any(|(_, mapped)| *mapped) {
        t += "[map]\n";
        for (gfn, _) in mapped.into_iter().filter(|(_, mapped)| *mapped) {
            let bits = "spte = \"110\", accessed = true, dirty = true";
            let _ = writeln!(t, "\"gfn{gfn}\" = {{ pfn = {gfn}, {bits} }}");
        }
        t += "\n";
    }
    for vcpu in 0..vcpus {
        let count = 1 + rng.below(4 - vcpus);
        let mut run: Vec<String> = (0..count).map(|_| instruction(rng, frames, swapped)).collect();
        if vcpu == 0 && !run.iter().any(|op| op.starts_with("write")) {
            run[0] = format!("write gfn{}", rng.below(frames));
        }
        thread(&mut t, &format!("vcpu{vcpu}"), &run);
    }
    if let Some(gfn) = swapped {
        let run = [format!("swap-out gfn{gfn}"), format!("swap-in gfn{gfn}")];
        thread(&mut t, "host", &run[..1 + rng.below(3 - vcpus)]);
    }
    let harvest = || ["get-dirty-log slot0", "copy-harvested"].map(str::to_owned);
    let rounds = rng.below(4 - vcpus);
    if rounds != 0 {
        thread(&mut t, "user", &(0..rounds).flat_map(|_| harvest()).collect::<Vec<_>>());
    }
    let _ = write!(t, "[at-stop]\nrun = {:?}\n\n", harvest());
    t += "[check]\n";
    t += "always    = [\"migration\", \"swap\", \"pfn-safety\", \"spte-legal\", \"rmap-exact\"]\n";
    t += "sometimes = [\"guest-write\"]\n";
    t
}

fn instruction(rng: &mut Rng, frames: usize, swapped: Option<usize>) -> String {
    let gfn = rng.below(frames);
    match rng.below(4) {
        0 if swapped != Some(gfn) => format!("read gfn{gfn}"),
        _ => format!("write gfn{gfn}"),
    }
}

fn thread(text: &mut String, name: &str, run: &[String]) {
    let _ = write!(text, "[[thread]]\nname = \"{name}\"\nrun  = {run:?}\n\n");
}
