//! The bounds that a command line names: which strategy keeps to which.

use crate::args::{SearchArgs, Strategy};
use crate::exit::Failure;

/// True if the strategy tells states apart, so that there is something to count.
fn counts_states(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Auto | Strategy::Stateful | Strategy::Naive)
}

/// Refuses a bound of states where the strategy has none: nobody should wait for it.
///
/// # Errors
///
/// Such a bound: the ones that there are.
pub fn refuse_foreign(args: &SearchArgs, strategy: Strategy) -> Result<(), Failure> {
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
