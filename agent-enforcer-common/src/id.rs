//! Numbers that name things on both sides. Zero names nothing.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The id that names nothing.
            pub const NONE: Self = Self(0);

            /// Wraps a raw number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> $raw {
                self.0
            }

            /// Whether this names nothing.
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }
    };
}

id! {
    /// An agent (a class of workload). Given out by the daemon, stable for a name while its state lives.
    AgentId(u32)
}
id! {
    /// A running tree of processes of an agent. Given out by the kernel side at classification, never reused.
    InstanceId(u64)
}
id! {
    /// One program image in one process, from exec on; forked children that do not exec share it.
    /// Verdicts belong to it, so that an identity is attested anew after each exec.
    ExecId(u64)
}
id! {
    /// A tool of the policy in force; its meaning is bound to the policy generation.
    ToolId(u32)
}
id! {
    /// A grant. Given out by the durable store, never reused.
    GrantId(u64)
}
id! {
    /// Number of the policy and grant state in force; a verdict is valid only in its own.
    Generation(u64)
}
id! {
    /// One question of the kernel to the daemon, however often it is repeated.
    RequestId(u64)
}

crate::plain_data!(AgentId, InstanceId, ExecId, ToolId, GrantId, Generation, RequestId);
