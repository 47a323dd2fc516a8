//! What is measured, and in which size.

/// Tasks that publish at the same time.
pub(crate) const SENDERS: usize = 32;
/// Slots of the larger worker.
pub(crate) const SLOTS: usize = 32;
/// Deliveries that raw takes beyond its slots where calls are taken ahead: as many as ours at most.
pub(crate) const AHEAD: usize = 256;
/// Calls that await their replies at the same time.
pub(crate) const IN_FLIGHT: usize = 64;
/// An argument of every call.
pub(crate) const TEXT: &str = "0123456789012345678901234567890123456789";

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row {
    PublishOne,
    PublishMany,
    PublishAll,
    ConsumeOne,
    ConsumeMany,
    AheadOne,
    AheadMany,
    RpcOne,
    RpcMany,
}

impl Row {
    pub(crate) const ALL: [Self; 9] = [
        Self::PublishOne,
        Self::PublishMany,
        Self::PublishAll,
        Self::ConsumeOne,
        Self::ConsumeMany,
        Self::AheadOne,
        Self::AheadMany,
        Self::RpcOne,
        Self::RpcMany,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PublishOne => "publish, one by one",
            Self::PublishMany => "publish, 32 senders",
            Self::PublishAll => "publish, pipelined",
            Self::ConsumeOne => "consume, 1 slot",
            Self::ConsumeMany => "consume, 32 slots",
            Self::AheadOne => "consume ahead, 1 slot",
            Self::AheadMany => "consume ahead, 32 slots",
            Self::RpcOne => "RPC, 1 in flight, 1 slot",
            Self::RpcMany => "RPC, 64 in flight, 32 slots",
        }
    }

    /// Tasks of one measurement: about a second's worth.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::PublishOne => 2_000,
            Self::PublishMany => 8_000,
            Self::PublishAll => 20_000,
            Self::ConsumeOne => 3_000,
            Self::ConsumeMany => 8_000,
            Self::AheadOne | Self::AheadMany => 20_000,
            Self::RpcOne => 1_500,
            Self::RpcMany => 6_400,
        }
    }
}

/// Whether this variable of the environment asks for something.
pub(crate) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Those of `rows` that the command line asks for.
pub(crate) fn chosen(rows: &[Row]) -> impl Iterator<Item = Row> {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.find(|argument| !argument.starts_with('-'));
    let filter = filter.unwrap_or_default();
    let rows = rows.iter().copied();
    rows.filter(move |row| row.name().contains(&filter))
}
