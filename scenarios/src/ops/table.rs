//! What the table of operations is made into: the families, their texts, their reader, the verbs.

/// The table: blocks of operations in the order of the manual. A block says who runs them and
/// whether they contend ([`Op::contends`](super::Op::contends)); a row has what the operation does,
/// its variant, its arguments, and its verb.
macro_rules! operations {
    ($($who:ident, contends: $contends:literal {
        $($(#[doc = $doc:literal])+
        $variant:ident $(($($name:ident: $argument:ident),+))? = $verb:literal,)+
    })+) => {
        /// Every operation, in the order of the manual.
        pub const VERBS: &[Verb] = &[$($(Verb {
            name: $verb,
            arguments: &[$($(<$argument as Argument>::FORM),+)?],
            who: Who::$who,
            meaning: concat!($($doc),+).trim_ascii(),
        },)+)+];

        crate::ops::table::sort! {
            [] [] [] []
            $($who {
                $($contends: $(#[doc = $doc])+ $variant $(($($name: $argument),+))? = $verb,)+
            })+
        }
    };
}

/// The rows of the table by who runs them: those of vCPUs, the host, user space, everybody.
macro_rules! sort {
    ([$($vcpu:tt)*] $host:tt $user:tt $any:tt Vcpu { $($row:tt)+ } $($rest:tt)*) => {
        crate::ops::table::sort! { [$($vcpu)* $($row)+] $host $user $any $($rest)* }
    };
    ($vcpu:tt [$($host:tt)*] $user:tt $any:tt Host { $($row:tt)+ } $($rest:tt)*) => {
        crate::ops::table::sort! { $vcpu [$($host)* $($row)+] $user $any $($rest)* }
    };
    ($vcpu:tt $host:tt [$($user:tt)*] $any:tt User { $($row:tt)+ } $($rest:tt)*) => {
        crate::ops::table::sort! { $vcpu $host [$($user)* $($row)+] $any $($rest)* }
    };
    ($vcpu:tt $host:tt $user:tt [$($any:tt)*] Any { $($row:tt)+ } $($rest:tt)*) => {
        crate::ops::table::sort! { $vcpu $host $user [$($any)* $($row)+] $($rest)* }
    };
    ([$($vcpu:tt)+] [$($host:tt)+] [$($user:tt)+] [$($any:tt)+]) => {
        crate::ops::table::family! {
            /// What only vCPUs run.
            VcpuOp { $($vcpu)+ }
        }
        crate::ops::table::family! {
            /// What the host's memory manager and its devices do; user space may, too: by madvise,
            /// or by touching a page.
            HostOp { $($host)+ }
        }
        crate::ops::table::family! {
            /// What only user space does.
            UserOp { $($user)+ }
        }
        crate::ops::table::family! {
            /// What every thread may do: take locks, give them back, wait for their readers.
            LockOp { $($any)+ }
        }
    };
}

/// One family: its type, its text as files have it, and its reader.
macro_rules! family {
    ($(#[$of:meta])+ $family:ident { $(
        $contends:literal: $(#[doc = $doc:literal])+
        $variant:ident $(($($name:ident: $argument:ident),+))? = $verb:literal,
    )+ }) => {
        $(#[$of])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $family {
            $($(#[doc = $doc])+ $variant $(($($argument),+))?,)+
        }

        impl $family {
            /// Reads the arguments of a verb. `None`: it is not of this family.
            ///
            /// # Errors
            ///
            /// Those of the arguments.
            pub fn read<A: Arguments>(
                verb: &str,
                arguments: &mut A,
            ) -> Result<Option<$family>, A::Error> {
                Ok(Some(match verb {
                    $($verb => $family::$variant
                        $(($(<$argument as Argument>::read(arguments)?),+))?,)+
                    _ => return Ok(None),
                }))
            }

            /// See [`Op::contends`].
            const fn contends(self) -> bool {
                match self { $($family::$variant { .. } => $contends,)+ }
            }
        }

        impl fmt::Display for $family {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $($family::$variant $(($($name),+))? => {
                        f.write_str($verb)?;
                        $($(f.write_str(" ")?; $name.write(f)?;)+)?
                    })+
                }
                Ok(())
            }
        }
    };
}

pub(super) use {family, operations, sort};
