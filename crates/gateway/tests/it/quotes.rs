//! Actions whose price only the provider knows.

use serde_json::{Value, json};

use crate::house::House;

/// No bound: the caller says nothing about money. The sandbox's price is 100 units of the currency.
const RIDE: &str = r#"
name = "RIDE"
description = "Order a ride"
reversible = true
guarantee_level = "atp-1"
default_payment_mode = "IMMEDIATE_CHARGE"
resource = "/to"
destination = "/to"
identity = ["/to"]

[cedar]
groups = ["Payments"]
resource_type = "Place"

[money]
quote = true
currency = "USD"

[anomaly]
hour_sum = "250.00"

[schema]
required = ["to"]

[schema.properties.to]
description = "Where to"
type = "string"
examples = ["station"]
x-identifier = true
x-display = true

[binding]
provider = "sandbox"
"#;

async fn house() -> House {
    House::with(|config| {
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("ride.toml"), RIDE).unwrap();
    })
    .await
}

fn ride(house: &House, to: &str) -> Value {
    json!({ "archetype": "RIDE", "constraints": { "to": to }, "delegation_token": house.token })
}

#[tokio::test]
async fn a_price_is_held_against_the_past_of_its_currency() {
    let house = house().await;
    for place in ["station", "harbour"] {
        let said = house.said(place, &ride(&house, place)).await;
        assert_eq!(said.kind(), "executed", "{}", said.body);
        assert_eq!(said.body["details"]["amount"], "100.00");
    }
    let third = house.said("airport", &ride(&house, "airport")).await;
    assert_eq!((third.kind(), third.code()), ("blocked", "EP_ANOMALY_BLOCK"), "{}", third.body);
}
