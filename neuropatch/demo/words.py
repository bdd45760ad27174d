"""The word lists that the demo's text is drawn from.

The surnames are made up, and the e-mail domains are the ones that RFC 2606 reserves for examples.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    """The entries of a list, which stand between bars if an entry has several words."""
    return text.split("|" if "|" in text else None)


FIRST_NAMES = _words(
    "Ada Bela Cato Dora Edda Falk Greta Hugo Ilse Jory Kira Lars Mina Nils Odile Pavo Quinta "
    "Rolf Saskia Tove Ulla Viggo Wanda Xenia Yann Zelda Anselm Berit Cosmo Delia Emrys Frida"
)
SURNAME_HEADS = _words(
    "Quill Amber Bramble Copper Drift Ember Fern Glimmer Hollow Inkle Juniper Kettle Larch "
    "Mallow Nettle Oaken Pebble Rook Sorrel Thistle Umber Velvet Willow Yarrow"
)
SURNAME_TAILS = _words(
    "feather wick stone by ford well more thorn brook sworth combe dale mere spur gate loft"
)
MAIL_HEADS = _words(
    "moss tin blue corn dusk elm fog gold hay iron jade kelp lime milk north opal pine "
    "quartz rain salt teal violet wax zinc"
)
MAIL_TAILS = _words(
    "lantern badger button candle drum engine falcon goblet hammer island jacket kite ladder "
    "mirror needle otter pocket rocket saddle teapot umbrella wagon whistle yard"
)
MAIL_DOMAINS = _words(
    "example.org example.com example.net fennel.example tarn.example pike.example "
    "cove.example mill.example"
)

LAND_HEADS = _words("Var Os Bel Tor Kal Min Dren Lu Sar Hob Wen Fal Gor Ish Neb Pra")
LAND_TAILS = _words("enholm adia morra ivia undale esk oria anth")
TOWN_TAILS = _words("trel wick burg anto heim olis port ena")
RIVER_TAILS = _words("isk ava erne oll une ith ade ombe")

PERSONS = _words(
    "baker miller teacher farmer sailor painter doctor gardener tailor fisher hunter singer "
    "captain weaver shepherd carpenter judge nurse poet guard cook blacksmith pilot student"
)
ADJECTIVES = _words(
    "small young tall quiet cheerful tired careful clever busy kind proud hungry brave lonely "
    "gentle curious"
)
GOODS = {
    "food": _words(
        "bread apples soup cheese plums honey carrots berries rice beans cake mushrooms"
    ),
    "tool": _words(
        "a hammer|a rope|a ladder|a lamp|a basket|a bucket|a knife|a broom|a kettle|a shovel|"
        "a clock|a mirror"
    ),
    "animal": _words(
        "a goat|a horse|a dog|a cat|a sheep|a hen|a donkey|a duck|a pony|a rabbit|a calf|a pigeon"
    ),
}
VERBS = {
    "food": _words("buys eats sells cooks shares tastes carries wants"),
    "tool": _words("buys borrows repairs carries cleans finds paints breaks"),
    "animal": _words("feeds follows washes sells finds calls watches leads"),
}
PLACES = _words(
    "at the market|near the river|behind the church|in the kitchen|by the old bridge|"
    "in the garden|on the hill|at the harbour|in the barn|beside the road|under the oak|"
    "in the forest|at the station|on the beach|in the cellar|near the mill"
)
TIMES = _words(
    "Every morning|In the evening|On Sunday|After the rain|Before noon|In winter|At night|"
    "During the harvest|In spring|Once a week|After school|Last of all"
)
MANNERS = _words("slowly quickly gladly quietly carefully often rarely alone")
FEELINGS = {
    "the sun is warm": _words("happy glad merry"),
    "the wind is cold": _words("cold tired angry"),
    "it rains all day": _words("wet sad bored"),
    "snow lies on the roofs": _words("cold calm quiet"),
    "the sky is clear": _words("glad calm proud"),
    "fog covers the fields": _words("lost afraid late"),
}
SCENES = (
    "{time} the {adjective} {person} {verb} {goods} {place}.",
    "{time} the {person} {verb} {goods} {manner}.",
    "A {adjective} {friend} {verb} {known} {manner} and goes home.",
    "The {person} meets a {adjective} {friend} {place}.",
    "Then {pronoun} talks with the {friend} about {known}.",
    "Because {weather}, the {person} is {feeling}.",
    "When {weather}, {pronoun} {verb} {known} {place}.",
    "{time} {pronoun} sleeps {place}, but the {friend} {verb} {known}.",
    "The {friend} gives the {person} {goods} for {number} coins.",
    "It takes {number} days, says the {adjective} {friend}.",
)
