//! Houses whose payments are carried out by a real bank over HTTP.

use countersign_gateway::Config;
use countersign_gateway::config::{Secret, StaticSecret};
use testkit::Swap;
use testkit::bank::{Bank, Options};

use crate::house::House;

/// How an order to the bank is worded: what stands for amount and currency.
pub(crate) struct Order {
    pub(crate) amount: &'static str,
    pub(crate) currency: &'static str,
}

/// As it should be.
pub(crate) const RIGHT: Order =
    Order { amount: r#"{ "$money" = "amount" }"#, currency: r#"{ "$money" = "currency" }"# };

pub(crate) fn binding(bank: &Bank, name: &str, order: &Order) -> String {
    let text = bank.binding().swapped("name = \"bank\"", &format!("name = \"{name}\""));
    let text = text.swapped(RIGHT.amount, order.amount).swapped(RIGHT.currency, order.currency);
    format!("\nname = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\n\n{text}")
}

/// What a bank promises.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    Idempotent,
    Queryable,
    Both,
}

/// A binding whose actions are tried again, by this policy.
pub(crate) fn retrying(bank: &Bank, promise: Promise, retry: &str) -> String {
    let whole = binding(bank, "bank", &RIGHT)
        .swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nguarantee_level = \"atp-2\"\n")
        .swapped(
            "refused = [{ status = [402, 422] }]\n",
            "refused = [{ status = [402, 422] }]\ntransient = { status = [429] }\n",
        )
        .swapped("timeout_ms = 5000", "timeout_ms = 200");
    let (mut text, query) =
        whole.split_once("\n[binding.query]").map(|(text, query)| (text.to_owned(), query)).unwrap();
    if promise == Promise::Idempotent {
        text = text.swapped("queryable = { by_our_reference = true, final_after_seconds = 0 }\n", "");
    } else {
        text = format!("{text}\n[binding.query]{query}");
    }
    if promise == Promise::Queryable {
        text = text.swapped("idempotent = { retention_seconds = 86400 }\n", "");
    }
    format!("{text}\n[retry]\n{retry}\n")
}

/// A bank that keeps this currency.
pub(crate) async fn bank(currency: &str) -> Bank {
    Bank::start(Options { currency: currency.to_owned(), ..Options::default() }).await.unwrap()
}

/// Lets the gateway reach these banks.
pub(crate) fn reaching(config: &mut Config, banks: &[&Bank]) {
    let addresses: Vec<String> = banks.iter().map(|bank| bank.address().to_string()).collect();
    let token = config.data_dir.with_file_name("bank.token");
    std::fs::write(&token, banks[0].token()).unwrap();
    let bank = StaticSecret { env: None, file: Some(token), hosts: addresses.clone() };
    config.secrets.insert("bank".to_owned(), Secret::Static(bank));
    config.egress.allow.extend(addresses.clone());
    config.egress.plain_http.extend(addresses);
    config.limits.recovery_interval_ms = 20;
}

/// A house and the bank that carries out its payments, ordered like this.
pub(crate) async fn house(currency: &str, order: &Order) -> (House, Bank) {
    let bank = bank(currency).await;
    let house = House::bound(&binding(&bank, "bank", order), |config| reaching(config, &[&bank])).await;
    (house, bank)
}
