//! Which deliveries of a channel are unsettled, which of their acknowledgements go out as one, and whose turn it is to
//! hand them over.

use std::collections::BTreeSet;

/// The deliveries of a channel. Nothing of lapin's is in it: it is looked at while lapin holds locks.
#[derive(Default)]
pub(super) struct Unsettled {
    /// Neither acknowledged nor given back.
    open: BTreeSet<u64>,
    /// Acknowledged, and not handed to lapin.
    ready: Vec<u64>,
    /// How many are handed over together, if they come soon enough.
    group: usize,
    /// Whether somebody hands frames over, or what was handed over is not written yet.
    is_written: bool,
    /// Whether what is ready is handed over when its time has come.
    is_timed: bool,
    /// How many are on their way back to the queue.
    returning: usize,
    /// Whether nothing more comes.
    has_ended: bool,
    /// How many were acknowledged, of these handed over, and of these written.
    acknowledged: u64,
    handed_over: u64,
    pub(super) written: u64,
}

/// Who hands over an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its caller, with all that are ready.
    Now,
    /// Somebody, when its time has come: the caller is to see to that.
    Timed,
    /// Somebody who is there.
    Others,
}

/// One acknowledgement on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u64,
    /// Of all up to this one.
    pub(super) multiple: bool,
}

impl Unsettled {
    /// None yet; so many acknowledgements are `group`ed.
    pub(super) fn new(group: usize) -> Self {
        Self {
            group,
            ..Self::default()
        }
    }

    /// A delivery has come.
    pub(super) fn delivered(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    /// A delivery was given back, and that is written.
    pub(super) fn given_back(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether all that was acknowledged was handed to lapin.
    pub(super) fn are_handed_over(&self) -> bool {
        self.ready.is_empty()
    }

    /// Another one is on its way back to the queue.
    pub(super) fn returns(&mut self) {
        self.returning += 1;
    }

    /// It is there, or never will be.
    pub(super) fn returned(&mut self) {
        self.returning -= 1;
    }

    /// No delivery comes any more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether none comes any more and none is on its way back: what is unsettled is in somebody's hands.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.returning == 0
    }

    /// Notes an acknowledgement; who hands it over.
    pub(super) fn ack(&mut self, tag: u64) -> Turn {
        self.ready.push(tag);
        self.acknowledged += 1;
        match self.is_written {
            true => Turn::Others,
            false => self.next(),
        }
    }

    /// Who is to hand over what is ready.
    fn next(&mut self) -> Turn {
        if self.ready.len() >= self.group {
            self.is_written = true;
            return Turn::Now;
        }
        match std::mem::replace(&mut self.is_timed, true) {
            true => Turn::Others,
            false => Turn::Timed,
        }
    }

    /// Whether what is ready is to be handed over by the caller, after its time.
    pub(super) fn time_is_up(&mut self) -> bool {
        self.is_timed = false;
        self.claim()
    }

    fn claim(&mut self) -> bool {
        let is_due = !self.is_written && !self.ready.is_empty();
        self.is_written |= is_due;
        is_due
    }

    /// How many are to be written until all of now are, and whether the caller is to hand over what is ready.
    pub(super) fn flush(&mut self) -> (u64, bool) {
        (self.acknowledged, self.claim())
    }

    /// What is to be written now.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        let mut tags = std::mem::take(&mut self.ready);
        for tag in &tags {
            self.open.remove(tag);
        }
        self.handed_over = self.acknowledged;
        tags.sort_unstable();
        // What comes later has a higher tag: nothing below the lowest open one is unsettled but these.
        let lowest = self.open.first().copied().unwrap_or(u64::MAX);
        let together = tags.partition_point(|tag| *tag < lowest);
        let mut frames = Vec::with_capacity(1 + tags.len() - together);
        if let Some(last) = together.checked_sub(1).and_then(|last| tags.get(last)) {
            frames.push(Frame {
                tag: *last,
                multiple: together > 1,
            });
        }
        let others = tags.iter().skip(together).map(|tag| Frame {
            tag: *tag,
            multiple: false,
        });
        frames.extend(others);
        frames
    }

    /// What was handed over is written; who is to hand over what is ready.
    pub(super) fn pass(&mut self) -> Turn {
        self.written = self.handed_over;
        self.is_written = false;
        match self.ready.is_empty() {
            true => Turn::Others,
            false => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsettled(group: usize, open: impl IntoIterator<Item = u64>) -> Unsettled {
        let mut unsettled = Unsettled::new(group);
        open.into_iter().for_each(|tag| unsettled.delivered(tag));
        unsettled
    }

    fn frames(unsettled: &mut Unsettled) -> Vec<(u64, bool)> {
        let frames = unsettled.take();
        let frames = frames.iter();
        frames.map(|frame| (frame.tag, frame.multiple)).collect()
    }

    fn ready(unsettled: &mut Unsettled, tags: impl IntoIterator<Item = u64>) {
        for tag in tags {
            unsettled.ack(tag);
        }
    }

    #[test]
    fn neighbours_are_acknowledged_together() {
        let mut unsettled = unsettled(1, 1..=9);
        ready(&mut unsettled, [1]);
        assert_eq!(frames(&mut unsettled), [(1, false)]);
        ready(&mut unsettled, [4, 2, 3]);
        assert_eq!(frames(&mut unsettled), [(4, true)]);
    }

    #[test]
    fn nothing_unsettled_is_acknowledged_with_others() {
        let mut unsettled = unsettled(1, 1..=9);
        ready(&mut unsettled, [2, 3, 5]);
        assert_eq!(frames(&mut unsettled), [(2, false), (3, false), (5, false)]);
        // 2, 3 and 5 are settled: naming one of them again would end the channel.
        ready(&mut unsettled, [1, 4, 6, 8]);
        assert_eq!(frames(&mut unsettled), [(6, true), (8, false)]);
        unsettled.given_back(7);
        ready(&mut unsettled, [9]);
        assert_eq!(frames(&mut unsettled), [(9, false)]);
        assert!(unsettled.open.is_empty());
    }

    #[test]
    fn one_at_a_time_hands_over() {
        let mut unsettled = unsettled(1, 1..=3);
        assert_eq!(unsettled.ack(1), Turn::Now);
        assert_eq!(frames(&mut unsettled), [(1, false)]);
        assert_eq!(unsettled.ack(2), Turn::Others);
        assert_eq!(unsettled.ack(3), Turn::Others);
        assert_eq!(unsettled.pass(), Turn::Now, "two have come meanwhile");
        assert_eq!(frames(&mut unsettled), [(3, true)]);
        assert_eq!(unsettled.pass(), Turn::Others, "none is left");
        assert!(!unsettled.is_written);
    }

    #[test]
    fn a_group_is_handed_over_when_it_is_full_or_its_time_is_up() {
        let mut unsettled = unsettled(3, 1..=9);
        assert_eq!(unsettled.ack(1), Turn::Timed);
        assert_eq!(unsettled.ack(2), Turn::Others);
        assert_eq!(unsettled.ack(3), Turn::Now, "it is full");
        assert_eq!(frames(&mut unsettled), [(3, true)]);
        assert!(!unsettled.time_is_up(), "nothing is left to hand over");
        ready(&mut unsettled, [4]);
        assert_eq!(unsettled.pass(), Turn::Timed);
        assert!(unsettled.time_is_up());
        assert_eq!(frames(&mut unsettled), [(4, false)]);
        ready(&mut unsettled, [5, 6, 7]);
        assert_eq!(unsettled.pass(), Turn::Now);
    }

    #[test]
    fn who_waits_for_the_writing_waits_for_what_came_before() {
        let mut unsettled = unsettled(3, 1..=4);
        assert_eq!(unsettled.ack(1), Turn::Timed);
        assert_eq!(unsettled.flush(), (1, true));
        assert_eq!(frames(&mut unsettled), [(1, false)]);
        assert_eq!(unsettled.ack(2), Turn::Others);
        assert_eq!(
            unsettled.flush(),
            (2, false),
            "it is handed over afterwards"
        );
        assert_eq!(unsettled.pass(), Turn::Others, "the first one's time comes");
        assert_eq!(unsettled.written, 1);
        assert!(unsettled.time_is_up());
        assert_eq!(frames(&mut unsettled), [(2, false)]);
        assert_eq!(unsettled.pass(), Turn::Others);
        assert_eq!(unsettled.flush(), (2, false), "it is written");
        assert_eq!(unsettled.written, 2);
    }
}
