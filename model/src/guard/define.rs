//! What a row of the table of guards has, and what is made of the rows.

macro_rules! guards {
    (@optional) => { None };
    (@optional $masked:expr) => { Some($masked) };
    (@shown) => { ShownUnder::Every };
    (@shown $shown:ident) => { ShownUnder::$shown };
    ($($variant:ident {
        name: $name:literal,
        function: $function:literal,
        source: $source:literal,
        since: $since:literal,
        prevents: $prevents:literal,
        without: $without:literal,
        $(shown_under: $shown:ident,)?
        $(masked: $masked:expr,)?
    })+) => {
        /// A protective step that can be removed.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Guard { $(#[doc = $prevents] $variant,)+ }

        impl Guard {
            /// Every guard, in the order of the table.
            pub const ALL: &'static [Guard] = &[$(Guard::$variant,)+];

            /// What is known about this guard.
            pub const fn info(self) -> &'static GuardInfo {
                match self {
                    $(Guard::$variant => &GuardInfo {
                        name: $name,
                        function: $function,
                        source: $source,
                        since: $since,
                        prevents: $prevents,
                        without: $without,
                        shown_under: guards!(@shown $($shown)?),
                        masked: guards!(@optional $($masked)?),
                    },)+
                }
            }
        }
    };
}
