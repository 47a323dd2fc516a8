//! Who listens to which channel.

use tokio::sync::mpsc;

use crate::broker::{Announcement, Channel, ChannelKind};
use crate::error::{Error, Result};
use crate::message::Message;

/// Who listens to which channel.
#[derive(Debug, Default)]
pub(super) struct Audience(Vec<Member>);

#[derive(Debug)]
struct Member {
    channel: Channel,
    name: String,
    sender: mpsc::Sender<Message>,
}

impl Audience {
    /// Adds a listener.
    pub(super) fn join(
        &mut self,
        channel: &Channel,
        name: &str,
        sender: mpsc::Sender<Message>,
    ) -> Result<()> {
        self.0.retain(|member| !member.sender.is_closed());
        let has_it = |member: &Member| member.channel == *channel && member.name == name;
        if channel.kind == ChannelKind::Control && self.0.iter().any(has_it) {
            return Err(Error::Refused {
                what: format!("to listen as `{name}`"),
                reason: "somebody else has that name".into(),
            });
        }
        self.0.push(Member {
            channel: channel.clone(),
            name: name.to_owned(),
            sender,
        });
        Ok(())
    }

    /// Tells all whom an announcement concerns; who is too far behind misses it.
    pub(super) fn tell(&self, announcement: &Announcement) {
        let Announcement {
            channel,
            key,
            message,
        } = announcement;
        let concerned = |member: &&Member| {
            member.channel == *channel
                && (channel.kind != ChannelKind::Reply || member.name == *key)
        };
        for member in self.0.iter().filter(concerned) {
            let _ = member.sender.try_send(message.clone());
        }
    }

    pub(super) fn may_hear(&self, channel: &Channel) -> bool {
        let listens = |member: &Member| member.channel == *channel && !member.sender.is_closed();
        self.0.iter().any(listens)
    }
}
