//! Which dead letters are meant.

use super::DeadLetter;

/// Selects dead letters: all, or those to which everything applies that is asked for.
///
/// ```
/// use garenne::Dead;
///
/// let everything = Dead::all();
/// let ten_poisonous_mails = Dead::all().task("mail.send").reason("poison").limit(10);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Dead {
    task: Option<String>,
    reason: Option<String>,
    id: Option<String>,
    pub(super) skip: usize,
    pub(super) limit: Option<usize>,
}

impl Dead {
    /// Every dead letter.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those of this task.
    pub fn task(mut self, name: impl Into<String>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Those that died for this reason, one word, as in [`DeadLetter::reason`].
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// That of the call with this id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Not the first `count` of those.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// At most `count` of those.
    pub fn limit(mut self, count: usize) -> Self {
        self.limit = Some(count);
        self
    }

    /// How many letters must be seen at least to find all of those.
    pub(super) fn reach(&self) -> usize {
        match (self.limit, &self.task, &self.reason, &self.id) {
            (Some(limit), None, None, None) => limit.saturating_add(self.skip),
            _ => usize::MAX,
        }
    }

    pub(super) fn selects(&self, letter: &DeadLetter) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        fits(&self.task, &letter.task)
            && fits(&self.reason, &letter.reason)
            && fits(&self.id, &letter.id)
    }
}
