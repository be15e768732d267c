//! Lines for whoever follows (`agent-enforcer events --follow`).
//!
//! In: each line, as the stage makes it. Out: the newest lines, and a channel of those to come,
//! with no line missing or twice between the two. A slow follower loses lines, not the stage.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

use crate::control::EventFeed;

/// Lines that a new follower is shown.
const RECENT: usize = 1000;
/// Lines that a slow follower may be behind.
const BEHIND: usize = 1024;

pub(super) struct Feed {
    recent: Mutex<VecDeque<Arc<str>>>,
    live: broadcast::Sender<String>,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { recent: Mutex::new(VecDeque::new()), live: broadcast::Sender::new(BEHIND) }
    }

    pub(super) fn publish(&self, line: &Arc<str>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(line));
        if self.live.receiver_count() != 0 {
            // It fails only when the last follower has left in this moment.
            drop(self.live.send(line.to_string()));
        }
    }

    pub(super) fn subscribe(&self) -> EventFeed {
        let (recent, live) = {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            (recent.clone(), self.live.subscribe())
        };
        EventFeed { recent: recent.iter().map(ToString::to_string).collect(), live }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_newest_lines_and_then_those_to_come() {
        let feed = Feed::new();
        for number in 0..RECENT + 5 {
            feed.publish(&Arc::from(number.to_string()));
        }
        let mut follower = feed.subscribe();
        feed.publish(&Arc::from("next"));
        assert_eq!(follower.recent.len(), RECENT);
        assert_eq!(follower.recent.first().unwrap(), "5");
        assert_eq!(follower.recent.last().unwrap(), &(RECENT + 4).to_string());
        assert_eq!(follower.live.try_recv().unwrap(), "next");
        assert!(follower.live.try_recv().is_err());
    }

    #[test]
    fn a_slow_follower_loses_lines_and_the_stage_goes_on() {
        let feed = Feed::new();
        let mut follower = feed.subscribe();
        for number in 0..BEHIND * 3 {
            feed.publish(&Arc::from(number.to_string()));
        }
        let lagged = follower.live.try_recv().unwrap_err();
        assert!(matches!(lagged, broadcast::error::TryRecvError::Lagged(_)));
        assert!(follower.live.try_recv().is_ok());
    }
}
