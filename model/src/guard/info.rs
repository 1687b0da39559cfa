//! What is known of a guard.

/// The entry of a guard in the table that `kvmmu guards` prints.
#[derive(Clone, Copy, Debug)]
pub struct GuardInfo {
    /// The name that scenario files and `--without` use.
    pub name: &'static str,
    /// The kernel function that contains the step.
    pub function: &'static str,
    /// The document or commit that says why the step is there.
    pub source: &'static str,
    /// The kernel version that introduced it.
    pub since: &'static str,
    /// What it prevents, in one sentence.
    pub prevents: &'static str,
    /// What takes its place when it is removed.
    pub without: &'static str,
    /// The memory models under which a run can show that it is missing.
    pub shown_under: ShownUnder,
    /// Set if removing this guard alone breaks nothing.
    pub masked: Option<Masked>,
}

/// The memory models under which a run can show that a guard is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShownUnder {
    /// Every model: without the guard, threads take other steps.
    Every,
    /// Only a model weaker than sequential consistency (SC): the guard orders the steps of one
    /// thread, which SC does anyway. Without it a run under SC is the run with it, so that a search
    /// that finds no violation there says nothing of the guard.
    WeakerThanSc,
}

/// Why removing a guard alone breaks nothing.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// What covers for it.
    pub by: &'static str,
    /// The argument.
    pub because: &'static str,
}
