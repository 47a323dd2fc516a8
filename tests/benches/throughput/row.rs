//! What is measured, and in which size.

/// Tasks that publish at the same time.
pub(crate) const SENDERS: usize = 32;
/// Slots of the larger worker.
pub(crate) const SLOTS: usize = 32;
/// Deliveries that raw takes beyond its slots where calls are taken ahead: as many as ours at most.
pub(crate) const AHEAD: usize = 256;
/// Calls that await their replies at the same time.
pub(crate) const IN_FLIGHT: usize = 64;
/// Messages that raw has under way at a time where as many as possible are: as many as ours.
pub(crate) const WINDOW: usize = 512;
/// An argument of most calls.
const TEXT: &str = "0123456789012345678901234567890123456789";

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
    EndToEnd,
    Publish10K,
    Publish1M,
    Consume10K,
    Consume1M,
}

impl Row {
    pub(crate) const ALL: [Self; 14] = [
        Self::PublishOne,
        Self::PublishMany,
        Self::PublishAll,
        Self::ConsumeOne,
        Self::ConsumeMany,
        Self::AheadOne,
        Self::AheadMany,
        Self::RpcOne,
        Self::RpcMany,
        Self::EndToEnd,
        Self::Publish10K,
        Self::Publish1M,
        Self::Consume10K,
        Self::Consume1M,
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
            Self::EndToEnd => "end to end, all at once, 32 slots",
            Self::Publish10K => "publish, pipelined, 10 KB each",
            Self::Publish1M => "publish, pipelined, 1 MB each",
            Self::Consume10K => "consume, 32 slots, 10 KB each",
            Self::Consume1M => "consume, 32 slots, 1 MB each",
        }
    }

    /// The argument of its calls.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Publish10K | Self::Consume10K => "x".repeat(10_000),
            Self::Publish1M | Self::Consume1M => "x".repeat(1_000_000),
            _ => TEXT.to_owned(),
        }
    }

    /// Tasks of one measurement: about a second's worth, but for the whole way of many.
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
            Self::EndToEnd => 50_000,
            Self::Publish10K | Self::Consume10K => 4_000,
            Self::Publish1M | Self::Consume1M => 100,
        }
    }
}

/// Whether this variable of the environment asks for something.
pub(crate) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Those of `rows` that the command line asks for: the one of this name, or all with this in their name.
pub(crate) fn chosen(rows: &[Row]) -> impl Iterator<Item = Row> {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.find(|argument| !argument.starts_with('-'));
    let filter = filter.unwrap_or_default();
    let is_one = rows.iter().any(|row| row.name() == filter);
    rows.iter().copied().filter(move |row| {
        let name = row.name();
        name == filter || (!is_one && name.contains(&filter))
    })
}
