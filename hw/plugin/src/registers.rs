//! Registers of the CPU that calls, by what they are for.

use std::collections::HashMap;

use kvmmu_steps::event::Arch;

use crate::qemu::Register;

/// Them.
#[derive(Debug)]
pub(crate) struct Registers {
    arch: Arch,
    named: HashMap<String, Register>,
    /// Those that are named by a number in instructions: `x0` to `x30`.
    numbered: Vec<Register>,
    /// Those in which a function gets its arguments.
    arguments: Vec<Register>,
}

/// What is read, beside arguments and what instructions name.
const NEEDED: [&[&str]; 2] = [
    &["VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "ESR_EL2", "SP_EL0", "TPIDR_EL2", "sp"],
    &["rax", "rcx", "rsp", "cr3", "cr4", "gs_base", "k_gs_base"],
];
/// By the calling conventions.
const ARGUMENTS: [[&str; 5]; 2] =
    [["x0", "x1", "x2", "x3", "x4"], ["rdi", "rsi", "rdx", "rcx", "r8"]];

impl Registers {
    /// None is known so far.
    pub(crate) fn new(arch: Arch) -> Registers {
        Registers { arch, named: HashMap::new(), numbered: Vec::new(), arguments: Vec::new() }
    }

    /// True if they are known.
    pub(crate) fn are_known(&self) -> bool {
        !self.named.is_empty()
    }

    /// What QEMU has. An error names one that it does not have.
    pub(crate) fn found(&mut self, registers: &[Register]) -> Result<(), String> {
        self.named = registers.iter().map(|r| (r.name.clone(), r.clone())).collect();
        let find = |name: &str| {
            let register = self.named.get(name).cloned();
            register.ok_or_else(|| format!("this QEMU has no register {name}"))
        };
        let arch = usize::from(self.arch == Arch::X86);
        NEEDED[arch].iter().try_for_each(|name| find(name).map(drop))?;
        self.arguments = ARGUMENTS[arch].iter().map(|name| find(name)).collect::<Result<_, _>>()?;
        if self.arch == Arch::Arm64 {
            self.numbered = (0..31).map(|n| find(&format!("x{n}"))).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// One by its name.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.named.get(name).map_or(0, Register::read)
    }

    /// One that an instruction of arm64 names; 31 is zero.
    pub(crate) fn x(&self, number: u8) -> u64 {
        self.numbered.get(usize::from(number)).map_or(0, Register::read)
    }

    /// The arguments of a function, at its first instruction.
    pub(crate) fn arguments(&self) -> [u64; 5] {
        std::array::from_fn(|n| self.arguments.get(n).map_or(0, Register::read))
    }

    /// The stack.
    pub(crate) fn stack(&self) -> u64 {
        self.get(if self.arch == Arch::X86 { "rsp" } else { "sp" })
    }

    /// What a function returns, at its last instruction.
    pub(crate) fn result(&self) -> u64 {
        match self.arch {
            Arch::Arm64 => self.x(0),
            Arch::X86 => self.get("rax"),
        }
    }
}
