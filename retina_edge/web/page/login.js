// The login page.

import { say, writeWords } from "./words.js";

writeWords(document);
document.title = say("login.title");
document.getElementById("wrong").hidden = location.search !== "?wrong";
