"""What the demonstration's people and bot say, in four languages. Every sentence is our own; the facts go into the braces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LANGUAGES = ("en", "de", "es", "fr")

QUESTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "result": {
        "en": ("What was the score of {a} against {b}?", "how did {a} get on against {b} on matchday {day}", "{a} v {b}, who won?"),
        "de": ("Wie ging {a} gegen {b} aus?", "Hat {a} am {day}. Spieltag gegen {b} gewonnen?"),
        "es": ("¿Cómo quedó {a} contra {b}?", "¿Ganó {a} a {b} en la jornada {day}?"),
        "fr": ("Quel a été le score de {a} contre {b} ?", "{a} a gagné contre {b} à la {day}e journée ?"),
    },
    "fixtures": {
        "en": ("Which matches did {a} have in {month}?", "list the {month} games of {a} please"),
        "de": ("Welche Spiele hatte {a} im {month}?", "Alle Spiele von {a} im {month} bitte"),
        "es": ("¿Qué partidos jugó {a} en {month}?", "Dime los partidos de {a} en {month}"),
        "fr": ("Quels matchs {a} a joués en {month} ?", "Donne-moi les matchs de {a} en {month}"),
    },
    "form": {
        "en": ("What is the form of {a}?", "last five of {a}?"),
        "de": ("In welcher Form ist {a}?", "Die letzten fünf Spiele von {a}?"),
        "es": ("¿En qué forma está {a}?", "¿Los últimos cinco de {a}?"),
        "fr": ("Quelle est la forme de {a} ?", "Les cinq derniers matchs de {a} ?"),
    },
    "standings": {
        "en": ("Show me the table after matchday {day} in {country}", "who was top in {country} after {day} matches?"),
        "de": ("Zeig mir die Tabelle nach dem {day}. Spieltag in {country}", "Wer stand nach {day} Spieltagen in {country} vorn?"),
        "es": ("Enséñame la tabla de {country} tras la jornada {day}", "¿Quién iba primero en {country} tras {day} jornadas?"),
        "fr": ("Montre-moi le classement en {country} après la {day}e journée", "Qui était en tête en {country} après {day} journées ?"),
    },
    "head_to_head": {
        "en": ("{a} or {b}: who has the better record between them?", "all meetings of {a} and {b}"),
        "de": ("{a} oder {b}: wer hat öfter gewonnen?", "Alle Duelle zwischen {a} und {b}"),
        "es": ("{a} o {b}: ¿quién ganó más veces?", "Todos los duelos entre {a} y {b}"),
        "fr": ("{a} ou {b} : qui a gagné le plus souvent ?", "Toutes les rencontres entre {a} et {b}"),
    },
    "venue": {
        "en": ("Where does {a} play?", "what is the ground of {a} called"),
        "de": ("Wo spielt {a}?", "Wie heißt das Stadion von {a}?"),
        "es": ("¿Dónde juega {a}?", "¿Cómo se llama el estadio de {a}?"),
        "fr": ("Où joue {a} ?", "Comment s'appelle le stade de {a} ?"),
    },
}

FOLLOW_UPS: Mapping[str, Sequence[str]] = {
    "en": ("And {a}?", "what about {a}", "same for {a} please"),
    "de": ("Und {a}?", "Und wie sieht es bei {a} aus?"),
    "es": ("¿Y {a}?", "¿Y qué tal {a}?"),
    "fr": ("Et {a} ?", "Et pour {a} ?"),
}

ANSWERS: Mapping[str, Mapping[str, str]] = {
    "result": {
        "en": "{home} {x}–{y} {away}, on {date}{half}.",
        "de": "{home} {x}:{y} {away}, am {date}{half}.",
        "es": "{home} {x}-{y} {away}, el {date}{half}.",
        "fr": "{home} {x}-{y} {away}, le {date}{half}.",
    },
    "fixtures": {
        "en": "{a} played {n} in {month}:\n{lines}",
        "de": "{a} hatte {n} Spiele im {month}:\n{lines}",
        "es": "{a} jugó {n} en {month}:\n{lines}",
        "fr": "{a} en a joué {n} en {month} :\n{lines}",
    },
    "form": {
        "en": "{a}, last five: {form}. Goals {x}–{y}.",
        "de": "{a}, letzte fünf: {form}. Tore {x}:{y}.",
        "es": "{a}, últimos cinco: {form}. Goles {x}-{y}.",
        "fr": "{a}, cinq derniers : {form}. Buts {x}-{y}.",
    },
    "standings": {
        "en": "{competition}, after matchday {day}:\n{lines}",
        "de": "{competition}, nach dem {day}. Spieltag:\n{lines}",
        "es": "{competition}, tras la jornada {day}:\n{lines}",
        "fr": "{competition}, après la {day}e journée :\n{lines}",
    },
    "head_to_head": {
        "en": "{a} won {x}, {b} won {y}, {z} drawn.\n{lines}",
        "de": "{a} gewann {x}, {b} gewann {y}, {z} unentschieden.\n{lines}",
        "es": "{a} ganó {x}, {b} ganó {y}, {z} empates.\n{lines}",
        "fr": "{a} en a gagné {x}, {b} {y}, {z} nuls.\n{lines}",
    },
    "venue": {
        "en": "{a} play at {ground}{city}.",
        "de": "{a} spielt im Stadion {ground}{city}.",
        "es": "{a} juega en {ground}{city}.",
        "fr": "{a} joue à {ground}{city}.",
    },
}

HALF = {"en": " ({x}–{y} at half time)", "de": " (zur Pause {x}:{y})", "es": " ({x}-{y} al descanso)", "fr": " ({x}-{y} à la mi-temps)"}
FORM = {"en": "WDL", "de": "SUN", "es": "GEP", "fr": "VND"}
COUNTRIES: Mapping[str, Mapping[str, str]] = {
    "en.1": {"en": "England", "de": "England", "es": "Inglaterra", "fr": "Angleterre"},
    "de.1": {"en": "Germany", "de": "Deutschland", "es": "Alemania", "fr": "Allemagne"},
    "es.1": {"en": "Spain", "de": "Spanien", "es": "España", "fr": "Espagne"},
}
MONTHS: Mapping[str, Sequence[str]] = {
    "en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"),
    "de": ("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"),
    "es": ("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
    "fr": ("janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"),
}

OFF_TOPIC: Mapping[str, Sequence[str]] = {
    "en": ("what should I cook tonight", "can you help me move house on Sunday?", "how long does a cat sleep"),
    "de": ("Wie wird das Wetter morgen?", "Kannst du mir bei der Steuer helfen?"),
    "es": ("¿Qué hago de cena?", "¿Me recomiendas una película?"),
    "fr": ("Tu connais une bonne recette de soupe ?", "Quel temps fera-t-il demain ?"),
}
ONLY_FOOTBALL = {
    "en": "I only know football. Ask me about a club, a match or a table.",
    "de": "Ich kenne mich nur mit Fußball aus. Frag mich nach einem Verein, einem Spiel oder einer Tabelle.",
    "es": "Solo sé de fútbol. Pregúntame por un club, un partido o una tabla.",
    "fr": "Je ne m'y connais qu'en football. Demande-moi un club, un match ou un classement.",
}
SORRY = {
    "en": "The results service did not answer. Please ask again in a minute.",
    "de": "Der Ergebnisdienst hat nicht geantwortet. Frag bitte gleich noch einmal.",
    "es": "El servicio de resultados no respondió. Pregunta otra vez en un minuto, por favor.",
    "fr": "Le service des résultats n'a pas répondu. Repose la question dans une minute, s'il te plaît.",
}
PRAISE: Mapping[str, Sequence[str]] = {
    "en": ("Quick and right.", "Exactly what I wanted to know", "nice, with the half-time score"),
    "de": ("Genau das wollte ich wissen.", "Schnell und richtig."),
    "es": ("Justo lo que quería.", "Rápido y claro."),
    "fr": ("Parfait, merci.", "Rapide et juste."),
}
COMPLAINT: Mapping[str, Sequence[str]] = {
    "en": ("That took far too long.", "wrong club, I meant the other one", "No scorers? That is half an answer."),
    "de": ("Falscher Verein.", "Das hat viel zu lange gedauert."),
    "es": ("Tardó demasiado.", "Ese no es el club que pregunté."),
    "fr": ("Trop lent.", "Ce n'était pas le bon club."),
}
HANDLES = (
    *("ana", "bruno", "carla", "dmitri", "elif", "farid", "greta", "hugo", "ines", "jonas", "katya", "luis", "mina", "noor", "otto"),
    *("paula", "quim", "rosa", "sami", "tilda", "umar", "vera", "wim", "xenia", "yuki", "zofia", "amadou", "brigitte", "caio", "dalia"),
)
SYSTEM_PROMPT = (
    "You answer questions about football results, shortly, in the language of the question, from the data given and nothing else."
)
RELEVANCE_PROMPT = "Say whether the message is about football. Answer with yes or no and one reason."
EVALUATION_PROMPT = "Compare the answer with the data it was made from. Answer with a mark from 1 to 5."
