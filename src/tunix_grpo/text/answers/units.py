"""Words around a number: measures and currencies by all their names, and words that change what the number says."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CURRENCIES = {
    "dollar": "$ dollars usd us$ bucks",
    "euro": "€ euros eur",
    "pound": "£ pounds gbp quid lb lbs",  # a weight of that name is told apart by nobody
    "yen": "¥ jpy 円",
    "rupee": "₹ rupees inr rs",
    "won": "₩ krw 원",
    "ruble": "₽ rubles roubles rouble rub",
    "lira": "₺ liras try",
    "baht": "฿ thb",
    "dong": "₫ vnd",
    "shekel": "₪ shekels ils",
    "peso": "₱ pesos",
    "naira": "₦ ngn",
    "hryvnia": "₴ uah",
    "yuan": "rmb cny 元",
    "franc": "francs chf",
    "cent": "¢ cents",
    "penny": "pence pennies",
}
MEASURES = {
    "kilometer": "km kms kilometers kilometre kilometres",
    "meter": "m meters metre metres",
    "centimeter": "cm cms centimeters centimetre centimetres",
    "millimeter": "mm millimeters millimetre millimetres",
    "micrometer": "μm um micrometers",
    "nanometer": "nm nanometers",
    "mile": "mi miles",
    "foot": "ft feet",
    "inch": "inches in",
    "yard": "yd yds yards",
    "kilogram": "kg kgs kilograms kilo kilos",
    "gram": "g grams gr",
    "milligram": "mg milligrams",
    "ton": "t tons tonne tonnes",
    "ounce": "oz ounces",
    "liter": "l L liters litre litres",
    "milliliter": "ml milliliters millilitre millilitres",
    "gallon": "gal gallons",
    "second": "s sec secs seconds",
    "millisecond": "ms milliseconds",
    "minute": "min mins minutes",
    "hour": "h hr hrs hours",
    "day": "d days",
    "week": "weeks wk wks",
    "month": "months mo",
    "year": "yr yrs years",
    "newton": "N newtons",
    "joule": "J joules",
    "kilojoule": "kJ kilojoules",
    "watt": "W watts",
    "kilowatt": "kW kilowatts",
    "kilowatthour": "kWh",
    "volt": "V volts",
    "ampere": "A amp amps amperes",
    "ohm": "Ω ohms",
    "coulomb": "C coulombs",
    "kelvin": "K kelvins",
    "celsius": "°C",
    "fahrenheit": "°F",
    "degree": "° deg degs degrees",
    "radian": "rad radians",
    "hertz": "Hz",
    "kilohertz": "kHz",
    "megahertz": "MHz",
    "gigahertz": "GHz",
    "pascal": "Pa pascals",
    "kilopascal": "kPa",
    "mole": "mol moles mols",
    "calorie": "cal calories",
    "kilocalorie": "kcal",
    "byte": "B bytes",
    "kilobyte": "kB KB kilobytes",
    "megabyte": "MB megabytes",
    "gigabyte": "GB gigabytes",
    "terabyte": "TB terabytes",
    "bit": "bits",
    "kilometer /hour": "kmh kph",
    "mile /hour": "mph",
    "am": "a.m.",
    "pm": "p.m.",
    "centimeter^2": "sqcm",
    "meter^2": "sqm",
    "foot^2": "sqft",
}
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "mn": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
    "lakh": 10**5,
    "crore": 10**7,
}
# Behind a number without a space: 5k.
GLUED_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9, "mn": 10**6}
# Sentences use these as other words: they are units only within a whole answer, not in running text.
AMBIGUOUS = _words("in a s try mi rs d t mo cal won second bit bits b")
# Anywhere before a number, these make it another number or none: `not 5`, `less than 5`, `twice 5`.
CHANGING_BEFORE = _words(
    """not isnt arent wasnt werent never nor neither without except unless cannot cant wrong incorrect false than
    but half twice double triple between unlike instead"""
)
# So do these right before it: `step 5`, `over 5`, `root 5`.
CHANGING_NEXT = _words(
    """no over under above below beyond least most root sqrt log ln sin cos tan point times plus squared past 第
    step steps equation example problem question case figure table section chapter route page line part item
    option choice exercise"""
)
# And these behind it: `5 squared`, `5 or 6`, `5 is wrong`.
CHANGING_BEHIND = _words(
    """or not isnt arent wrong incorrect false squared cubed factorial plus minus divided multiplied halves
    thirds fourths fifths sixths eighths tenths hundredths thousandths infinity pi mod modulo choose sqrt st nd rd th"""
)
# These belong to the number before them: `5 squared`, `2 thirds`.
RAISING = _words("squared cubed factorial halves thirds fourths fifths sixths eighths tenths hundredths thousandths")
# Say nothing about what is counted.
IDLE = _words(
    """a an the of in total for all altogether per each every is are was were be has have had there it its he she
    they we i that this which about approximately approx around roughly nearly almost exactly only just so thus hence
    therefore then and left remaining long tall wide high deep old now today answer final result value
    equals equal with at on my our your his her their me you get gives makes"""
)


def _names() -> dict[str, str]:
    """Returns every name of a measure or currency, in lower case unless that would be another measure's."""
    exact = {
        name: kind
        for table in (CURRENCIES, MEASURES)
        for kind, names in table.items()
        for name in (kind, *names.split())
    }
    return exact | {name.lower(): kind for name, kind in exact.items() if len(name) > 1 and name.lower() not in exact}


NAMES = _names()


def measure(word: str) -> str | None:
    """Returns the measure or currency that a word names, or None; of a single letter the case counts."""
    return NAMES.get(word) or (NAMES.get(word.lower()) if len(word) > 1 else None)


def singular(word: str) -> str:
    """Returns a noun in lower case without a plural's ending."""
    word = word.lower().replace("'", "")
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word.removesuffix("s") if len(word) > 2 else word
