//! The bounds that a command line names: which strategy keeps to which, and which ended a search.

use kvmmu_sim::outcome::Reason;

use crate::cli::args::SearchArgs;
use crate::cli::exit::Failure;
use crate::lab::search::Strategy;

/// True if the strategy distinguishes states, so that there is something to count.
fn counts_states(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Auto | Strategy::Stateful | Strategy::Naive)
}

/// Refuses a bound of states where the strategy has none: it would never be reached. And depths
/// where nothing looks for them.
///
/// # Errors
///
/// Such a bound: the ones that there are; such depths.
pub fn refuse_foreign(args: &SearchArgs, strategy: Strategy) -> Result<(), Failure> {
    if args.pct_depth.is_some() && !matches!(strategy, Strategy::Auto | Strategy::Pct) {
        let strategy = format!("{strategy:?}").to_lowercase();
        return Err(Failure::usage(
            format!("--pct-depth has no effect on the strategy {strategy}"),
            "leave it away, unset KVMMU_PCT_DEPTH, or use --strategy auto or pct",
        ));
    }
    match foreign(args, strategy) {
        Some(message) => Err(Failure::usage(
            message,
            "use --executions-max, --steps-max or --time-max, and unset KVMMU_STATES_MAX; auto, \
             stateful and naive have a bound of states",
        )),
        None => Ok(()),
    }
}

/// The same where what is found is made short, for which there is such a bound with every strategy:
/// a note.
pub fn note_foreign(args: &SearchArgs, strategy: Strategy, quiet: bool) {
    if let Some(message) = foreign(args, strategy).filter(|_| !quiet) {
        say!("note: {message}: only what makes a run short keeps to it");
    }
}

/// What is wrong with a bound of states, if `strategy` has none.
fn foreign(args: &SearchArgs, strategy: Strategy) -> Option<String> {
    args.states_max.filter(|_| !counts_states(strategy))?;
    let strategy = format!("{strategy:?}").to_lowercase();
    Some(format!("--states-max does not bound the strategy {strategy}"))
}

/// A bound that the command line or the environment names, and why a search ends there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The option.
    pub option: &'static str,
    /// The reason.
    pub reason: Reason,
}

/// All of them.
pub fn asked(args: &SearchArgs) -> Vec<Asked> {
    // Samples end with the last execution, which is no bound that was hit.
    let executions = match args.strategy() {
        Strategy::Random | Strategy::Pct => Reason::NotExhaustive,
        _ => Reason::Executions,
    };
    let all = [
        (args.executions_max.is_some(), "--executions-max", executions),
        (args.states_max.is_some(), "--states-max", Reason::States),
        (args.steps_max.is_some(), "--steps-max", Reason::Steps),
        (args.memory_max.is_some(), "--memory-max", Reason::Memory),
        (args.time_max.is_some(), "--time-max", Reason::Time),
    ];
    let asked = all.into_iter().filter(|(is_asked, ..)| *is_asked);
    asked.map(|(_, option, reason)| Asked { option, reason }).collect()
}
