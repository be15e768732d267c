//! One file per hook: what it reads from its context, and what it does about a judgement.

pub(crate) mod call;
pub(crate) mod cgroups;
pub(crate) mod connect;
pub(crate) mod egress;
pub(crate) mod guard;
pub(crate) mod lineage;
pub(crate) mod lsm;
pub(crate) mod peers;
pub(crate) mod sendmsg;
pub(crate) mod sock_create;
pub(crate) mod sock_ops;
pub(crate) mod unix;
