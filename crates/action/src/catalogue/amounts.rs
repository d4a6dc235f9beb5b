//! The `[money]` of an archetype, and thresholds in its currency.

use super::paths::{is_required, pointer};
use super::reader::{Node, Table};
use super::schema::Schema;
use crate::archetype::{CurrencyRule, Kind, MoneyRule, Pointer};
use crate::json;
use crate::money::{Currency, Money};

pub(crate) fn amount_pointers(money: &Table<'_>) -> Vec<String> {
    let text = |key: &str| money.peek(key).and_then(|node| node.json().as_str().map(str::to_owned));
    text("amount").into_iter().chain(text("bound")).collect()
}

pub(crate) fn money_rule(money: &Table<'_>, schema: &Schema) -> Option<MoneyRule> {
    let amount = money.get("amount").and_then(|node| Some((node, amount_pointer(node, schema)?)));
    let bound = money.get("bound").and_then(|node| amount_pointer(node, schema));
    let quote = money.get("quote").and_then(|node| node.flag()).unwrap_or(false);
    let zero = money.get("zero").and_then(|node| node.flag()).unwrap_or(false);
    let currency = currency_rule(money, schema);
    money.finish();
    match &amount {
        Some((node, pointer)) if !is_required(&schema.members, pointer.segments()) => {
            node.mistake_with_hint(
                "the amount is not a required member",
                "without it no cap could be held: add it to `required`",
            );
        }
        Some((node, _)) if quote => {
            node.mistake_with_hint(
                "both an amount and a quote",
                "name `amount` where the caller sets the price, `quote = true` where the provider does",
            );
        }
        None if !quote && money.peek("amount").is_none() => {
            money.mistake(
                "no amount",
                "say where it stands (`amount = \"/…\"`), or that the provider names it (`quote = true`)",
            );
        }
        _ => {}
    }
    Some(MoneyRule { amount: amount.map(|(_, pointer)| pointer), bound, currency: currency?, quote, zero })
}

fn amount_pointer(node: Node<'_>, schema: &Schema) -> Option<Pointer> {
    let (pointer, member) = pointer(node, schema)?;
    if member.kind != Kind::Money {
        // A wrong type was already reported; what remains is opaque.
        if member.kind == Kind::Opaque {
            node.mistake_with_hint("money cannot be opaque", schema.hint_to_map());
        }
        return None;
    }
    Some(pointer)
}

fn currency_rule(money: &Table<'_>, schema: &Schema) -> Option<CurrencyRule> {
    let Some(node) = money.get("currency") else {
        money.mistake(
            "no currency",
            "name one (`currency = \"USD\"`), or the member that holds its code (`\"/currency\"`)",
        );
        return None;
    };
    let text = node.text()?;
    if !text.starts_with('/') {
        let currency = Currency::of(text);
        if currency.is_none() {
            node.mistake_with_hint("unknown currency", "use an upper-case code of ISO 4217, such as \"USD\"");
        }
        return currency.map(CurrencyRule::Fixed);
    }
    let (pointer, member) = pointer(node, schema)?;
    if !matches!(member.kind, Kind::Identifier { .. } | Kind::Text)
        || !is_required(&schema.members, pointer.segments())
    {
        node.mistake_with_hint(
            "the currency's member is not a required string",
            "make it so, or name one currency",
        );
        return None;
    }
    Some(CurrencyRule::Member(pointer))
}

/// The currency by whose digits thresholds are read: the fixed one, or any of a list that all have as many.
fn threshold_currency(rule: &MoneyRule, schema: &Schema) -> Option<Currency> {
    let pointer = match &rule.currency {
        CurrencyRule::Fixed(currency) => return Some(*currency),
        CurrencyRule::Member(pointer) => pointer,
    };
    let path: String = pointer.segments().iter().fold(String::new(), |mut path, segment| {
        path.push_str("/properties");
        json::push_segment(&mut path, segment);
        path
    });
    let allowed = schema.document.pointer(&path)?.get("enum")?.as_array()?;
    let currencies: Vec<Currency> =
        allowed.iter().map(|code| Currency::of(code.as_str()?)).collect::<Option<_>>()?;
    let first = *currencies.first()?;
    currencies.iter().all(|currency| currency.digits() == first.digits()).then_some(first)
}

/// How thresholds are read.
pub(crate) enum Thresholds {
    /// With this currency's digits.
    In(Currency),
    /// The currencies that are possible differ in digits, or are not listed.
    Mixed,
    /// A mistake elsewhere hides the currency.
    Unknown,
    /// There are no amounts to compare.
    NoMoney,
}

impl Thresholds {
    pub(crate) fn of(has_money: bool, rule: Option<&MoneyRule>, schema: &Schema) -> Thresholds {
        match rule {
            Some(rule) => threshold_currency(rule, schema).map_or(Thresholds::Mixed, Thresholds::In),
            None if has_money => Thresholds::Unknown,
            None => Thresholds::NoMoney,
        }
    }

    /// An amount in minor units.
    pub(crate) fn read(&self, node: Node<'_>) -> Option<i64> {
        let text = node.text()?;
        let currency = match self {
            Thresholds::In(currency) => *currency,
            Thresholds::Unknown => return None,
            Thresholds::Mixed => {
                let hint = "name one currency, or list the currencies as an `enum` of codes with equally many fraction digits";
                node.mistake_with_hint("a threshold needs to know its currency", hint);
                return None;
            }
            Thresholds::NoMoney => {
                node.mistake_with_hint(
                    "a threshold on an archetype without money",
                    "add `[money]`, or remove it",
                );
                return None;
            }
        };
        match Money::parse(text, currency) {
            Ok(money) => Some(money.minor()),
            Err(error) => {
                let hint = format!("write a decimal string such as \"{}\"", example(currency));
                node.mistake_with_hint(format!("not an amount in {currency}: {error}"), hint);
                None
            }
        }
    }
}

fn example(currency: Currency) -> String {
    let unit = 10i64.pow(u32::from(currency.digits()));
    Money::new(500 * unit, currency).map(|money| money.to_string()).unwrap_or_default()
}
