"""Ray's own dashboard in a browser, used as a person uses it: signed in by its dialog, filtered by its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import wait_until

PATIENCE_S = 120
TABLE = """
const cells = row => [...row.cells].map(cell => cell.textContent);
return [...document.querySelectorAll('thead tr, tbody tr')].map(cells)"""


class RayDashboard:
    """The dashboard at `url`, of a Ray that wants `token`. `driver` is on one of its pages from then on."""

    def __init__(self, driver: Chrome, url: str, token: str) -> None:
        self.driver, self._url = driver, url
        driver.get(url)
        self._element("//*[@role='dialog']//input").send_keys(token)
        self._element("//*[@role='dialog']//button[.='Submit']").click()
        self._wait(lambda: bool(driver.get_cookies()) and not self._found("//*[@role='dialog']"), "it is signed in")

    def open(self, page: str, *words: str) -> None:
        """Returns when all of `words` are to be read there."""
        self.driver.get(f"{self._url}/#/{page}")
        self.wait_for(*words)

    def wait_for(self, *words: str) -> None:
        self._wait(lambda: all(word in self.text() for word in words), f"the page has {words}")

    def text(self) -> str:
        """All that is to be read on the page, even what is cut short for want of room."""
        text: str = self.driver.execute_script("return document.getElementById('root').textContent")
        return text

    def rows(self) -> list[dict[str, str]]:
        """Of the page's table, by the titles of its columns."""
        titles, *rows = self.driver.execute_script(TABLE)
        return [dict(zip(titles, row, strict=True)) for row in rows]

    def row(self, cells: Mapping[str, str]) -> dict[str, str]:
        """The row that has these cells, by the titles of their columns, as soon as there is one."""
        found: list[dict[str, str]] = []

        def is_there() -> bool:
            found[:] = [row for row in self.rows() if cells.items() <= row.items()]
            return len(found) == 1

        self._wait(is_there, f"one row has {cells}")
        return found[0]

    def filter(self, fields: Mapping[str, str], num_rows: int) -> None:
        """Types into fields above the table, takes it from what they suggest, and waits until so many rows are left."""
        for label, value in fields.items():
            field = self._element(f"//label[.='{label}']/..//input")
            field.send_keys(value)
            if field.get_attribute("role") == "combobox":
                self._element(f"//*[@role='option'][.='{value}']").click()
        self._wait(lambda: len(self.rows()) == num_rows, f"{num_rows} rows have {fields}")

    def click(self, link: str) -> None:
        self._element(f"//a[.='{link}']").click()

    def _element(self, xpath: str) -> WebElement:
        self._wait(lambda: bool(self._found(xpath)), f"the page has {xpath}")
        return self._found(xpath)[0]

    def _found(self, xpath: str) -> list[WebElement]:
        return self.driver.find_elements(By.XPATH, xpath)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            try:
                return condition()
            except WebDriverException:  # the page is being loaded, or drawn anew
                return False

        wait_until(holds, PATIENCE_S, what)
