//! Programs: what a thread runs, step by step.

use alloc::vec::Vec;
use core::{fmt, slice};

use crate::ops::{Arguments, HostOp, LockOp, Op, UserOp, VcpuOp};

/// The program of a thread.
#[derive(Clone, PartialEq, Debug)]
pub enum Program {
    /// Of a vCPU.
    Vcpu(Steps<OnVcpu>),
    /// Of the host or of user space.
    Other(Steps<OffVcpu>),
}

/// An operation in the program of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnVcpu {
    /// Of vCPUs.
    Vcpu(VcpuOp),
    /// Of every thread.
    Lock(LockOp),
}

/// An operation in the program of the host or of user space. Only user space has those of its own:
/// the loader sees to that, and who interprets them does not care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffVcpu {
    /// Of the host, or of user space.
    Host(HostOp),
    /// Of user space.
    User(UserOp),
    /// Of every thread.
    Lock(LockOp),
}

/// The steps of a program of such operations.
#[derive(Clone, PartialEq, Debug)]
pub struct Steps<T>(pub Vec<Step<T>>);

/// A step of a program.
#[derive(Clone, PartialEq, Debug)]
pub enum Step<T> {
    /// An operation.
    One(T),
    /// One of these: which one is up to the scheduler. None of them takes or gives back a lock.
    OneOf(Vec<T>),
}

/// An operation that stands in programs of one kind.
pub trait Runs: Copy + Into<Op> {
    /// Reads the arguments of a verb. `None`: these programs do not have it.
    ///
    /// # Errors
    ///
    /// Those of the arguments.
    fn read<A: Arguments>(verb: &str, arguments: &mut A) -> Result<Option<Self>, A::Error>;
}

impl Runs for OnVcpu {
    fn read<A: Arguments>(verb: &str, arguments: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(match VcpuOp::read(verb, arguments)? {
            Some(op) => Some(OnVcpu::Vcpu(op)),
            None => LockOp::read(verb, arguments)?.map(OnVcpu::Lock),
        })
    }
}

impl Runs for OffVcpu {
    fn read<A: Arguments>(verb: &str, arguments: &mut A) -> Result<Option<Self>, A::Error> {
        if let Some(op) = HostOp::read(verb, arguments)? {
            return Ok(Some(OffVcpu::Host(op)));
        }
        Ok(match UserOp::read(verb, arguments)? {
            Some(op) => Some(OffVcpu::User(op)),
            None => LockOp::read(verb, arguments)?.map(OffVcpu::Lock),
        })
    }
}

impl From<OnVcpu> for Op {
    fn from(op: OnVcpu) -> Op {
        match op {
            OnVcpu::Vcpu(op) => Op::Vcpu(op),
            OnVcpu::Lock(op) => Op::Lock(op),
        }
    }
}

impl From<OffVcpu> for Op {
    fn from(op: OffVcpu) -> Op {
        match op {
            OffVcpu::Host(op) => Op::Host(op),
            OffVcpu::User(op) => Op::User(op),
            OffVcpu::Lock(op) => Op::Lock(op),
        }
    }
}

impl<T> Step<T> {
    /// How many numbers it takes up: that of an operation, or that of a choice and of each of its
    /// operations.
    pub(crate) fn len(&self) -> usize {
        match self {
            Step::One(_) => 1,
            Step::OneOf(ops) => 1 + ops.len(),
        }
    }
}

impl<T: Copy + Into<Op>> Steps<T> {
    /// How many numbers its steps take up: operations and choices.
    pub fn len(&self) -> usize {
        self.0.iter().map(Step::len).sum()
    }

    /// True if there are no steps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The operations and their numbers. A choice has a number, too, before those of its
    /// operations.
    pub fn ops(&self) -> impl Iterator<Item = (usize, Op)> {
        let mut next = 0;
        self.0.iter().flat_map(move |step| {
            let at = next;
            next += step.len();
            let (first, ops) = match step {
                Step::One(op) => (at, slice::from_ref(op)),
                Step::OneOf(ops) => (at + 1, ops.as_slice()),
            };
            (first..).zip(ops.iter().map(|op| (*op).into()))
        })
    }
}

impl<T> Default for Steps<T> {
    fn default() -> Steps<T> {
        Steps(Vec::new())
    }
}

impl<T> FromIterator<T> for Steps<T> {
    fn from_iter<I: IntoIterator<Item = T>>(ops: I) -> Steps<T> {
        Steps(ops.into_iter().map(Step::One).collect())
    }
}

impl Program {
    /// How many numbers its steps take up: operations and choices.
    pub fn len(&self) -> usize {
        match self {
            Program::Vcpu(steps) => steps.len(),
            Program::Other(steps) => steps.len(),
        }
    }

    /// True if there are no steps.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operations and their numbers: see [`Steps::ops`].
    pub fn ops(&self) -> impl Iterator<Item = (usize, Op)> {
        let (vcpu, other) = match self {
            Program::Vcpu(steps) => (Some(steps), None),
            Program::Other(steps) => (None, Some(steps)),
        };
        vcpu.into_iter().flat_map(Steps::ops).chain(other.into_iter().flat_map(Steps::ops))
    }
}

/// `write gfn0, one of (shrink | age gfn1)`
impl<T: Copy + Into<Op>> fmt::Display for Steps<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match step {
                Step::One(op) => (*op).into().fmt(f)?,
                Step::OneOf(ops) => {
                    for (i, op) in ops.iter().enumerate() {
                        f.write_str(if i == 0 { "one of (" } else { " | " })?;
                        (*op).into().fmt(f)?;
                    }
                    f.write_str(")")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Vcpu(steps) => steps.fmt(f),
            Program::Other(steps) => steps.fmt(f),
        }
    }
}
