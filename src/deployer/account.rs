//! What an answer takes, told by whoever gives it to whoever counts.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// One request's, beside how long it took altogether.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Who asked; `None` for somebody who is not known, or who need not be.
    pub node: Option<String>,
    /// How long it was held back because it asked for that.
    pub waited: Duration,
}

tokio::task_local! {
    static CURRENT: RefCell<Account>;
}

/// Answers, and tells what there is to tell of it.
pub async fn accounted<T>(answer: impl Future<Output = T>) -> (T, Account) {
    CURRENT
        .scope(RefCell::default(), async {
            let answer = answer.await;
            (answer, CURRENT.with(RefCell::take))
        })
        .await
}

/// Where nobody counts, nothing is told.
fn tell(change: impl FnOnce(&mut Account)) {
    let _ = CURRENT.try_with(|account| change(&mut account.borrow_mut()));
}

pub(super) fn asked_by(node: &str) {
    tell(|account| account.node = Some(node.to_owned()));
}

/// It was held back from `since` on, until `change`, or until now where none came. What passed from the change until it was
/// heard of is no waiting: that is the deployer's own.
pub(super) fn waited(since: Instant, change: Option<Instant>) {
    let until = change.unwrap_or_else(Instant::now);
    tell(|account| account.waited += until.saturating_duration_since(since));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_tells_who_asked_and_what_it_waited_until_the_change() {
        let since = Instant::now();
        let ((), account) = accounted(async {
            waited(since, Some(since + Duration::from_millis(30)));
            waited(since, Some(since + Duration::from_millis(12)));
            // What was there before nobody has waited for.
            waited(since + Duration::from_secs(1), Some(since));
            asked_by("node01");
        })
        .await;
        assert_eq!(account, Account { node: Some("node01".into()), waited: Duration::from_millis(42) });
        // Nobody counts.
        asked_by("node02");
        let ((), account) = accounted(async {}).await;
        assert_eq!(account, Account::default());
    }
}
